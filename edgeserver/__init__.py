"""A Matrix homeserver for small boxes, thin lines and places without internet."""
