"""The client-server API, one file per section."""
