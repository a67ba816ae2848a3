"""Rooms: events are made here, taken in here, and written here. Rooms never call sync or federation; those follow the store."""
