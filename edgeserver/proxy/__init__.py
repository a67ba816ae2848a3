"""The low-bandwidth proxy: a homeserver on localhost, for ordinary clients, in front of a thin line to a box."""
