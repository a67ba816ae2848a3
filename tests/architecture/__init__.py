"""What the house promises about itself: directions of import, where SQL lives, types and lint."""
