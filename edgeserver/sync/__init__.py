"""What clients are told of what is new: views of rooms, and the ways of asking for them."""
