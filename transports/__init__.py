"""Bytes, frames and request/response exchanges. Nothing in here has heard of a room."""
