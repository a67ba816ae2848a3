"""Short chat texts in two to three bits a character.

`encode_text` and `decode_text` code one text among other fields of a `rangecoder`. The tables of the model were made
from a corpus by `python -m transports.lowband.text.train`; `tables/NOTICE` says whose it is. They must be the same at both
ends, so `text_model_hash` names them.
"""

from transports.lowband.text.codec import LOOKED_AT, TextError, decode_text, encode_text, text_model_hash

__all__ = ["LOOKED_AT", "TextError", "decode_text", "encode_text", "text_model_hash"]
