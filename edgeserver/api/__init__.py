"""The HTTP interface: one ASGI application, one file per section of the specifications. Every wire calls the same
application.
"""
