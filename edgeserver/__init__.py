"""A Matrix homeserver for small boxes, thin lines and places without internet."""

__version__ = "0.1.0"
