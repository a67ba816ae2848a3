import hashlib
from base64 import urlsafe_b64encode
from dataclasses import FrozenInstanceError

import pytest

from edgeserver.matrix import canonical_json
from edgeserver.matrix.event import (
    Event,
    client_event,
    content_hash,
    event_id_of,
    reference_hash,
    signed_bytes,
    stripped_state,
)
from edgeserver.matrix.room_versions import ROOM_VERSIONS, V1, V3, V10, V11, V12
from edgeserver.matrix.signatures import encode_base64, verify
from tests.matrix.spec_vectors import KEY, SERVER_NAME, VECTORS

PDU = {
    "type": "m.room.message",
    "room_id": "!r:one.example",
    "sender": "@a:one.example",
    "content": {"body": "hello"},
    "depth": 7,
    "origin_server_ts": 1234,
    "prev_events": ["$" + "p" * 43],
    "auth_events": ["$" + "a" * 43, "$" + "b" * 43],
    "hashes": {"sha256": "h"},
    "signatures": {"one.example": {"ed25519:1": "s"}},
}
CREATE_V12 = {
    **{key: value for key, value in PDU.items() if key != "room_id"},
    "type": "m.room.create",
    "state_key": "",
    "content": {"room_version": "12"},
    "prev_events": [],
    "auth_events": [],
}


@pytest.mark.parametrize("vector", VECTORS["event_signing"], ids=["minimal", "redactable"])
def test_every_event_example_of_the_specification_is_hashed_and_signed(vector):
    pdu = dict(vector["input"])
    pdu["hashes"] = {"sha256": content_hash(pdu)}
    assert pdu["hashes"] == vector["signed"]["hashes"]
    message = signed_bytes(pdu, V1)
    signature = vector["signed"]["signatures"][SERVER_NAME][KEY.key_id]
    assert encode_base64(KEY.sign(message)) == signature
    verify(signed_bytes(vector["signed"], V1), signature, KEY.verify_key)


def test_the_reference_hash_is_over_the_redacted_event_without_signatures():
    left = {key: value for key, value in PDU.items() if key != "signatures"} | {"content": {}}
    digest = hashlib.sha256(canonical_json.encode(left)).digest()
    assert reference_hash(PDU, V11) == digest
    assert reference_hash({**PDU, "unsigned": {"age": 1}, "signatures": {}, "more": 1}, V11) == digest
    assert event_id_of(PDU, V11) == "$" + urlsafe_b64encode(digest).decode().rstrip("=")
    assert event_id_of(PDU, V3) == "$" + encode_base64(digest)


def test_the_content_hash_is_over_everything_but_hashes_signatures_and_unsigned():
    assert content_hash(PDU) == content_hash({**PDU, "hashes": {}, "signatures": {}, "unsigned": {"age": 5}})
    assert content_hash(PDU) != content_hash({**PDU, "more": 1})
    assert content_hash(PDU) != content_hash({**PDU, "content": {"body": "Hello"}})


def test_an_event_has_the_fields_of_its_pdu():
    event = Event.from_pdu(PDU, V11)
    assert (event.type, event.room_id, event.sender) == ("m.room.message", "!r:one.example", "@a:one.example")
    assert (event.depth, event.origin_server_ts, event.content) == (7, 1234, {"body": "hello"})
    assert event.prev_events == ("$" + "p" * 43,)
    assert event.auth_events == ("$" + "a" * 43, "$" + "b" * 43)
    assert event.pdu is PDU
    assert event.state_key is None
    assert not event.is_state
    assert Event.from_pdu({**PDU, "state_key": ""}, V11).is_state


def test_an_event_of_version_1_names_itself_and_its_references_are_pairs():
    pdu = {**PDU, "event_id": "$e:one.example", "prev_events": [["$p:x", {"sha256": "a"}]], "auth_events": []}
    event = Event.from_pdu(pdu, V1)
    assert event.event_id == "$e:one.example"
    assert event.prev_events == ("$p:x",)


def test_a_room_of_version_12_is_named_after_its_create_event():
    create = Event.from_pdu(CREATE_V12, V12)
    assert create.room_id == "!" + create.event_id[1:]
    assert client_event(create)["room_id"] == create.room_id
    assert "room_id" not in create.pdu
    assert Event.from_pdu(create.pdu, V12, event_id=create.event_id).room_id == create.room_id


def test_no_other_event_may_lack_its_room():
    without = {key: value for key, value in PDU.items() if key != "room_id"}
    for pdu, rules in ((without, V12), (CREATE_V12, V11)):
        with pytest.raises(KeyError):
            Event.from_pdu(pdu, rules)


def test_two_events_are_equal_if_their_ids_are_and_none_can_be_changed():
    event = Event.from_pdu(PDU, V11)
    assert event == Event.from_pdu({**PDU, "unsigned": {"age": 1}}, V11)
    assert len({event, Event.from_pdu(PDU, V11)}) == 1
    assert event != Event.from_pdu({**PDU, "depth": 8}, V11)
    assert event != event.event_id
    with pytest.raises(FrozenInstanceError):
        event.depth = 9


@pytest.mark.parametrize("rules", [rules for rules in ROOM_VERSIONS.values() if int(rules.version) > 2])
def test_redacting_an_event_leaves_its_id_and_what_is_signed(rules):
    event = Event.from_pdu({**PDU, "room_id": "!r:one.example", "unsigned": {"age": 1}}, rules)
    redacted = event.redacted()
    assert redacted.content == {}
    assert "unsigned" not in redacted.pdu
    assert redacted.event_id == event.event_id == event_id_of(redacted.pdu, rules)
    assert redacted.redacted().pdu == redacted.pdu


REDACTION = {**PDU, "type": "m.room.redaction"}


@pytest.mark.parametrize(
    ("pdu", "rules"),
    [
        ({**REDACTION, "redacts": "$x", "content": {"reason": "spam"}}, V10),
        ({**REDACTION, "content": {"reason": "spam", "redacts": "$x"}}, V11),
    ],
    ids=["before 11", "since 11"],
)
def test_clients_find_what_is_redacted_in_both_places(pdu, rules):
    event = Event.from_pdu(pdu, rules)
    assert event.redacts == "$x"
    shown = client_event(event)
    assert shown["redacts"] == "$x"
    assert shown["content"] == {"reason": "spam", "redacts": "$x"}
    assert event.pdu == pdu


def test_what_redacts_says_in_the_wrong_place_or_form_counts_for_nothing():
    assert Event.from_pdu({**REDACTION, "redacts": "$x"}, V11).redacts is None
    assert Event.from_pdu({**REDACTION, "content": {"redacts": "$x"}}, V10).redacts is None
    assert Event.from_pdu({**REDACTION, "content": {"redacts": 5}}, V11).redacts is None
    assert Event.from_pdu({**PDU, "content": {"redacts": "$x"}}, V11).redacts is None
    assert "redacts" not in client_event(Event.from_pdu({**REDACTION, "content": {}}, V11))


def test_a_client_sees_an_event_without_what_is_for_servers():
    event = Event.from_pdu({**PDU, "state_key": "", "unsigned": {"secret": 1}, "event_id": "$fake"}, V11)
    shown = client_event(event, unsigned={"age": 5})
    assert shown == {
        "type": "m.room.message",
        "room_id": "!r:one.example",
        "sender": "@a:one.example",
        "content": {"body": "hello"},
        "event_id": event.event_id,
        "origin_server_ts": 1234,
        "state_key": "",
        "unsigned": {"age": 5},
    }
    assert "room_id" not in client_event(event, with_room_id=False)
    assert stripped_state(event).keys() == {"type", "state_key", "sender", "content"}
