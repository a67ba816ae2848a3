"""Sliding sync (MSC4186): one engine, two dialects on the wire."""
