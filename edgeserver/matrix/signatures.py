"""Signatures: of JSON objects, and of requests between servers. Ed25519 only.

Spec: appendices, "Signing JSON" and "Unpadded Base64"; server-server API, "Request Authentication".
"""

from __future__ import annotations

import binascii
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import nacl.exceptions
import nacl.signing

from edgeserver.matrix import canonical_json

if TYPE_CHECKING:
    from collections.abc import Mapping

ALGORITHM: Final = "ed25519"

_URL_SAFE = str.maketrans("-_", "+/")
_MAX_HEADER = 4096
_SCHEME = re.compile(r"X-Matrix[ \t]+", re.IGNORECASE)
_PARAMETER = re.compile(
    r"[ \t]*([0-9A-Za-z!#$%&'*+.^_`|~-]+)[ \t]*=[ \t]*" r'(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))[ \t]*(?:,|$)'
)
_ESCAPED = re.compile(r"\\(.)")


class SignatureError(ValueError):
    """A signature is missing, malformed or wrong."""


class SigningKey:
    """A server's signing key. `key_id` is `ed25519:<version>`, `verify_key` the public key (32 bytes)."""

    __slots__ = ("_key", "key_id", "verify_key")

    def __init__(self, seed: bytes, key_id: str) -> None:
        """Make the key from its 32 secret bytes; whoever calls has drawn them at random, or read them.

        Raises ValueError if the seed is not 32 bytes long or the key id is not of ed25519.
        """
        if len(seed) != 32:
            raise ValueError("the seed of an ed25519 key has 32 bytes")
        if not key_id.startswith(f"{ALGORITHM}:"):
            raise ValueError("the key id must begin with ed25519:")
        self._key = nacl.signing.SigningKey(seed)
        self.key_id = key_id
        self.verify_key: bytes = self._key.verify_key.encode()

    def sign(self, message: bytes) -> bytes:
        """The signature of `message`: 64 bytes."""
        return self._key.sign(message).signature

    def __repr__(self) -> str:
        return f"<SigningKey {self.key_id}>"


@dataclass(frozen=True, slots=True)
class XMatrix:
    """What an `Authorization: X-Matrix` header says. `destination` is None if an old server left it out."""

    origin: str
    destination: str | None
    key_id: str
    signature: str


def encode_base64(data: bytes) -> str:
    """Unpadded base64 in the standard alphabet."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").decode("ascii")


def decode_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, with or without padding. Raises ValueError."""
    text = text.rstrip("=").translate(_URL_SAFE)
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError as error:  # binascii.Error is one, and text that is not ASCII raises a plain one
        raise ValueError("not valid base64") from error


def verify(message: bytes, signature: str, verify_key: bytes) -> None:
    """Check an unpadded base64 `signature` of `message`. Raises SignatureError."""
    try:
        _verify_key(verify_key).verify(message, decode_base64(signature))
    except (ValueError, nacl.exceptions.CryptoError) as error:
        raise SignatureError("the signature is wrong") from error


def sign_json(obj: Mapping[str, Any], server_name: str, key: SigningKey) -> dict[str, Any]:
    """A copy of `obj` with the server's signature added to `signatures`. What `unsigned` holds is not signed.

    Raises CanonicalJSONError if the object has no canonical form.
    """
    return with_signature(obj, server_name, key.key_id, encode_base64(key.sign(_signed_part(obj))))


def with_signature(obj: Mapping[str, Any], server_name: str, key_id: str, signature: str) -> dict[str, Any]:
    """A copy of `obj` with one more signature."""
    others = obj.get("signatures", {})
    return {**obj, "signatures": {**others, server_name: {**others.get(server_name, {}), key_id: signature}}}


def verify_json(obj: Mapping[str, Any], server_name: str, key_id: str, verify_key: bytes) -> None:
    """Check that `server_name` has signed `obj` with this key.

    Raises SignatureError, also if the object has no such signature or no canonical form.
    """
    signature = signatures_by(obj, server_name).get(key_id)
    if signature is None:
        raise SignatureError(f"no signature of {server_name} by {key_id}")
    try:
        message = _signed_part(obj)
    except canonical_json.CanonicalJSONError as error:
        raise SignatureError("the object has no canonical form") from error
    verify(message, signature, verify_key)


def signatures_by(obj: Mapping[str, Any], server_name: str) -> dict[str, str]:
    """The signatures that `obj`, which may come from anyone, carries of this server (or user): key id → base64."""
    by_name = obj.get("signatures")
    by_key = by_name.get(server_name) if isinstance(by_name, dict) else None
    if not isinstance(by_key, dict):
        return {}
    return {key_id: signature for key_id, signature in by_key.items() if isinstance(signature, str)}


def sign_request(
    method: str, uri: str, origin: str, destination: str, key: SigningKey, content: Mapping[str, Any] | None = None
) -> str:
    """The `Authorization` header of a request to another server.

    `uri` is the path and query as they go over the wire, `content` the JSON body, None where there is none.
    """
    signed = canonical_json.encode_lenient(_request_json(method, uri, origin, destination, content))
    return format_authorization(XMatrix(origin, destination, key.key_id, encode_base64(key.sign(signed))))


def verify_request(
    authorization: XMatrix,
    method: str,
    uri: str,
    destination: str,
    verify_key: bytes,
    content: Mapping[str, Any] | None = None,
) -> None:
    """Check the signature of a request that came in for us, `destination`, against the origin's key.

    `content` is the body as `canonical_json.decode_exact` reads it: events of old rooms may hold floats and integers of
    any size, and so may messages to devices. Floats that are whole numbers have a canonical form, too, which is tried
    after the one that other servers write.
    Raises SignatureError, also if the header says that the request is for another server.
    """
    if authorization.destination is not None and authorization.destination != destination:
        raise SignatureError("the request is for another server")
    request = _request_json(method, uri, authorization.origin, destination, content)
    try:
        signed = canonical_json.encode_lenient(request)
    except canonical_json.CanonicalJSONError as error:
        raise SignatureError("the request has no canonical form") from error
    try:
        verify(signed, authorization.signature, verify_key)
    except SignatureError:
        other = _canonical_or_none(request)
        if other in (None, signed):
            raise
        verify(other, authorization.signature, verify_key)


def format_authorization(authorization: XMatrix) -> str:
    """The value of the `Authorization` header."""
    parameters = {"origin": authorization.origin, "destination": authorization.destination}
    parameters |= {"key": authorization.key_id, "sig": authorization.signature}
    return "X-Matrix " + ",".join(f'{name}="{value}"' for name, value in parameters.items() if value is not None)


def parse_authorization(header: str) -> XMatrix:
    """Read an `Authorization` header of scheme X-Matrix.

    RFC 9110, section 11.4: names and scheme in any case, values quoted or bare, blanks around `=` and `,`; bare values
    may hold colons, as old servers send them. Unknown parameters are passed over.
    Raises SignatureError if it is of another scheme, malformed, or lacks origin, key or sig.
    """
    scheme = _SCHEME.match(header)
    if scheme is None or len(header) > _MAX_HEADER:
        raise SignatureError("not an X-Matrix authorisation")
    found: dict[str, str] = {}
    position, end = scheme.end(), len(header.rstrip(" \t,"))
    while position < end:
        parameter = _PARAMETER.match(header, position)
        if parameter is None:
            raise SignatureError("malformed X-Matrix authorisation")
        name, quoted, bare = parameter.groups()
        if name.lower() in found:
            raise SignatureError(f"{name} is stated twice")
        found[name.lower()] = bare if quoted is None else _ESCAPED.sub(r"\1", quoted)
        position = parameter.end()
    try:
        return XMatrix(found["origin"], found.get("destination"), found["key"], found["sig"])
    except KeyError as error:
        raise SignatureError(f"the X-Matrix authorisation lacks {error}") from error


def _request_json(
    method: str, uri: str, origin: str, destination: str, content: Mapping[str, Any] | None
) -> dict[str, Any]:
    request: dict[str, Any] = {"method": method, "uri": uri, "origin": origin, "destination": destination}
    if content is not None:
        request["content"] = content
    return request


def _canonical_or_none(value: Mapping[str, Any]) -> bytes | None:
    try:
        return canonical_json.encode(value)
    except canonical_json.CanonicalJSONError:
        return None


def _signed_part(obj: Mapping[str, Any]) -> bytes:
    return canonical_json.encode({key: value for key, value in obj.items() if key not in ("signatures", "unsigned")})


@lru_cache(maxsize=256)
def _verify_key(verify_key: bytes) -> nacl.signing.VerifyKey:
    return nacl.signing.VerifyKey(verify_key)
