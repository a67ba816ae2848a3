"""The low-bandwidth client-server API (MSC3079): Matrix over CoAP, for clients that others have written."""
