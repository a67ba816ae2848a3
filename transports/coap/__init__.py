"""CoAP without I/O: messages (RFC 7252), observation (RFC 7641), block-wise transfer (RFC 7959, RFC 9177). It has never heard of Matrix."""
