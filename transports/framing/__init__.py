"""Sans-io framing: bytes of a stream in, whole frames out."""
