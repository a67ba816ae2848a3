"""Being the gateway of paired boxes: carrying their requests to the internet and the internet's requests to them."""
