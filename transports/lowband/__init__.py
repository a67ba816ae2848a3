"""Few bytes for request and response: CBOR, key and path tables, dictionaries, one message format. No I/O and no
clock."""
