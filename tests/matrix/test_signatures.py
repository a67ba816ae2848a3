import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.matrix import signatures
from edgeserver.matrix.signatures import SignatureError, SigningKey, XMatrix, parse_authorization
from tests.matrix.spec_vectors import KEY, SERVER_NAME, VECTORS

OTHER = SigningKey(bytes(32), "ed25519:other")


@pytest.mark.parametrize("vector", VECTORS["json_signing"], ids=["empty", "data"])
def test_every_signing_example_of_the_specification_is_signed_and_verified(vector):
    assert signatures.sign_json(vector["input"], SERVER_NAME, KEY) == vector["signed"]
    signatures.verify_json(vector["signed"], SERVER_NAME, KEY.key_id, KEY.verify_key)


def test_signing_keeps_other_signatures_and_leaves_unsigned_out():
    once = signatures.sign_json({"a": 1, "unsigned": {"age": 5}}, "one.example", KEY)
    twice = signatures.sign_json({**once, "unsigned": {"age": 6}}, "two.example", OTHER)
    thrice = signatures.sign_json(twice, "one.example", OTHER)
    assert thrice["signatures"]["one.example"].keys() == {KEY.key_id, OTHER.key_id}
    signatures.verify_json(thrice, "one.example", KEY.key_id, KEY.verify_key)
    signatures.verify_json(thrice, "two.example", OTHER.key_id, OTHER.verify_key)
    assert once["signatures"].keys() == {"one.example"}


@pytest.mark.parametrize(
    "changed",
    [
        {"a": 2},
        {"signatures": {}},
        {"signatures": []},
        {"signatures": {"s": "no"}},
        {"signatures": {"s": {KEY.key_id: 5}}},
        {"signatures": {"s": {KEY.key_id: "*"}}},
        {"signatures": {"s": {KEY.key_id: "A" * 86}}},
        {"signatures": {"s": {KEY.key_id: "é"}}},
        {"b": 1.5},
    ],
)
def test_a_signature_that_is_missing_malformed_or_of_something_else_is_refused(changed):
    signed = signatures.sign_json({"a": 1}, "s", KEY)
    with pytest.raises(SignatureError):
        signatures.verify_json({**signed, **changed}, "s", KEY.key_id, KEY.verify_key)


def test_another_key_does_not_verify():
    signed = signatures.sign_json({"a": 1}, "s", KEY)
    for wrong in (OTHER.verify_key, b"short"):
        with pytest.raises(SignatureError):
            signatures.verify_json(signed, "s", KEY.key_id, wrong)


def test_a_key_needs_a_seed_of_32_bytes_and_an_ed25519_id_and_does_not_show_its_secret():
    with pytest.raises(ValueError, match="32 bytes"):
        SigningKey(b"short", "ed25519:1")
    with pytest.raises(ValueError, match="ed25519"):
        SigningKey(bytes(32), "rsa:1")
    assert repr(OTHER) == "<SigningKey ed25519:other>"


@given(st.binary(max_size=50))
@settings(max_examples=60)
def test_base64_is_read_in_either_alphabet_padded_or_not(data):
    standard = signatures.encode_base64(data)
    assert "=" not in standard
    url_safe = standard.replace("+", "-").replace("/", "_")
    padding = "=" * (-len(standard) % 4)
    for form in (standard, url_safe, standard + padding, url_safe + padding):
        assert signatures.decode_base64(form) == data


@pytest.mark.parametrize("wrong", ["A", "AB CD", "é", "AB=CD", "*"])
def test_what_is_not_base64_is_refused(wrong):
    with pytest.raises(ValueError, match="base64"):
        signatures.decode_base64(wrong)


REQUEST = ("PUT", "/_matrix/federation/v1/send/1?a=%20b")


def test_a_signed_request_is_verified_by_whom_it_is_for():
    content = {"pdus": []}
    header = signatures.sign_request(*REQUEST, "one.example", "two.example", KEY, content)
    seen = parse_authorization(header)
    assert (seen.origin, seen.destination, seen.key_id) == ("one.example", "two.example", KEY.key_id)
    signatures.verify_request(seen, *REQUEST, "two.example", KEY.verify_key, content)


def test_a_request_that_was_changed_or_is_for_somebody_else_is_refused():
    header = signatures.sign_request(*REQUEST, "one.example", "two.example", KEY, {"pdus": []})
    seen = parse_authorization(header)
    method, uri = REQUEST
    for arguments, content in [
        ((method, uri, "two.example"), None),
        ((method, uri, "two.example"), {"pdus": [1]}),
        ((method, uri, "two.example"), {"pdus": [1.5]}),
        (("POST", uri, "two.example"), {"pdus": []}),
        ((method, uri + "&b", "two.example"), {"pdus": []}),
        ((method, uri, "three.example"), {"pdus": []}),
    ]:
        with pytest.raises(SignatureError):
            signatures.verify_request(seen, *arguments, KEY.verify_key, content)


@pytest.mark.parametrize("number", [1.5, 2.0, 1e16, -0.0, 2**60, 2**70, 10**400])
def test_a_request_with_an_event_of_an_old_room_is_signed_as_python_writes_its_numbers(number):
    content = {"pdus": [{"content": {"n": number}}]}
    request = {"content": content, "destination": "two.example", "method": REQUEST[0], "origin": "one.example", "uri": REQUEST[1]}
    written = json.dumps(request, separators=(",", ":"), sort_keys=True).encode()
    header = signatures.sign_request(*REQUEST, "one.example", "two.example", KEY, content)
    seen = parse_authorization(header)
    assert seen.signature == signatures.encode_base64(KEY.sign(written))
    signatures.verify_request(seen, *REQUEST, "two.example", KEY.verify_key, content)
    with pytest.raises(SignatureError):
        signatures.verify_request(seen, *REQUEST, "two.example", KEY.verify_key, {"pdus": [{"content": {"n": 3.5}}]})


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_request_with_what_is_no_number_has_no_signature(number):
    seen = parse_authorization(signatures.sign_request(*REQUEST, "one.example", "two.example", KEY, {}))
    with pytest.raises(SignatureError):
        signatures.verify_request(seen, *REQUEST, "two.example", KEY.verify_key, {"n": number})


def test_a_request_without_a_body_is_signed_without_content_and_destination_may_be_missing_from_the_header():
    header = signatures.sign_request("GET", "/x", "one.example", "two.example", KEY)
    seen = parse_authorization(header)
    older = XMatrix(seen.origin, None, seen.key_id, seen.signature)
    assert parse_authorization(signatures.format_authorization(older)) == older
    signatures.verify_request(older, "GET", "/x", "two.example", KEY.verify_key)


@pytest.mark.parametrize(
    "header",
    [
        'X-Matrix origin="o:8448",destination="d",key="ed25519:k",sig="a+/B"',
        "X-Matrix origin=o:8448,destination=d,key=ed25519:k,sig=a+/B",
        'x-matrix   ORIGIN = "o:8448" , Destination=d ,\tkey="ed25519:k", sig="a+/B" , new="1,2" ',
        'X-MATRIX sig="a+\\/B",key="ed25519:\\k",destination="d",origin="o:8448",',
    ],
)
def test_the_header_is_read_however_it_is_written(header):
    assert parse_authorization(header) == XMatrix("o:8448", "d", "ed25519:k", "a+/B")


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer token",
        "X-Matrix",
        "X-Matrix ",
        "X-Matrix origin",
        'X-Matrix origin="o',
        'X-Matrix origin="o",key="k"',
        'X-Matrix origin="o",origin="p",key="k",sig="s"',
        'X-Matrix origin="o" key="k" sig="s"',
        'X-Matrix ,origin="o",key="k",sig="s"',
        'X-Matrix origin="o",key="k",sig="' + "s" * 5000 + '"',
        "X-Matrix " + "\\" * 4000,
    ],
)
def test_a_header_that_is_not_one_is_refused(header):
    with pytest.raises(SignatureError):
        parse_authorization(header)
