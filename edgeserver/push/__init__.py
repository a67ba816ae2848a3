"""Notifications on their way: what tells push gateways, and the gateway and topics of this box for phones on its network."""
