"""The specification's own examples (see tests/data/README.md)."""

import json
from pathlib import Path

from edgeserver.matrix.signatures import SigningKey, decode_base64

VECTORS = json.loads((Path(__file__).parent.parent / "data" / "spec_vectors.json").read_text())
SERVER_NAME = VECTORS["server_name"]
KEY = SigningKey(decode_base64(VECTORS["signing_key_seed"]), VECTORS["key_id"])
