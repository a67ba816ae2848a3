"""Whether an identity server's key has been revoked, and which keys have signed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from edgeserver.federation.third_party_invites import KeyValidity, signing_keys
from edgeserver.matrix.errors import MatrixError
from edgeserver.matrix.signatures import SigningKey, encode_base64, sign_json
from transports.exchange import Response, Unreachable

ONE, TWO = SigningKey(b"1" * 32, "ed25519:1"), SigningKey(b"2" * 32, "ed25519:1")
URL = "https://id.example:8443/isvalid"


@dataclass
class Web:
    """An internet that answers one thing to everything; None: it is out of reach."""

    body: Any
    status: int = 200
    asked: list[tuple[str, int, str]] = field(default_factory=list)

    async def get(self, host: str, port: int, target: str, *, max_response: int = 0, timeout: float = 0) -> Response:
        self.asked.append((host, port, target))
        if self.body is None:
            raise Unreachable("out of reach")
        return Response(self.status, (), orjson.dumps(self.body))


async def test_a_key_is_valid_when_its_server_says_so() -> None:
    web = Web({"valid": True})
    await KeyValidity(web).check(URL, "a+b/c")  # type: ignore[arg-type]
    await KeyValidity(web).check("https://id.example?x=1", "k")  # type: ignore[arg-type]
    assert web.asked == [("id.example", 8443, "/isvalid?public_key=a%2Bb%2Fc"), ("id.example", 443, "/?x=1&public_key=k")]


@pytest.mark.parametrize(
    ("web", "url", "status"),
    [
        (Web({"valid": False}), URL, 403),
        (Web({"valid": "yes"}), URL, 403),
        (Web({}), URL, 403),
        (Web([]), URL, 502),
        (Web({"valid": True}, 404), URL, 502),
        (Web(None), URL, 502),
        (None, URL, 502),
        (Web({"valid": True}), "http://id.example/isvalid", 403),
        (Web({"valid": True}), "https://user@id.example/", 403),
        (Web({"valid": True}), "https://id.example:x/", 403),
        (Web({"valid": True}), "https://[/", 403),
        (Web({"valid": True}), "https://id.example/" + "x" * 2048, 403),
        (Web({"valid": True}), "file:///etc/passwd", 403),
        (Web({"valid": True}), "https://id.example/a b", 403),
        (Web({"valid": True}), "https://id.example/a\r\nX: y", 403),
        (Web({"valid": True}), "https://id.example/\u00e9", 403),
    ],
)
async def test_a_key_is_not_valid_by_any_other_answer(web: Any, url: str, status: int) -> None:
    with pytest.raises(MatrixError) as refused:
        await KeyValidity(web).check(url, "k")
    assert refused.value.status == status
    assert web is None or status != 403 or url == URL or not web.asked


def test_the_keys_that_have_signed_are_found_with_their_urls() -> None:
    signed = sign_json({"mxid": "@a:b", "token": "t"}, "id.example", ONE)
    one, two = encode_base64(ONE.verify_key), encode_base64(TWO.verify_key)
    assert list(signing_keys(signed, {"public_key": one, "key_validity_url": URL})) == [(one, URL)]
    assert list(signing_keys(signed, {"public_key": two, "public_keys": [{"public_key": one}, 1, {"public_key": "?"}]})) == [(one, None)]
    assert list(signing_keys(signed, {"public_key": two})) == []
    assert list(signing_keys({**signed, "signatures": {"id.example": 1}}, {"public_key": one})) == []
