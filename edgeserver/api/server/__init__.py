"""The server-server API: one file for each section of the spec."""
