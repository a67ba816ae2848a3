import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeserver.matrix import canonical_json
from edgeserver.matrix.draft import complete, countersign, depth_after, references, template
from edgeserver.matrix.errors import BadJson, TooLarge
from edgeserver.matrix.event import Event, event_id_of, reference_hash
from edgeserver.matrix.identifiers import domain_of, is_domain_event_id
from edgeserver.matrix.pdu_checks import check_format, check_hash, check_signatures, open_pdu
from edgeserver.matrix.room_versions import SUPPORTED, V1, V2, V3, V4, V5, V6, V10, V11, V12
from edgeserver.matrix.signatures import SigningKey, encode_base64
from edgeserver.matrix.verdicts import ACCEPTED, Dropped
from tests.matrix.test_canonical_json import text, values

KEY = SigningKey(bytes(32), "ed25519:1")
KEYS = {("one.example", KEY.key_id): KEY.verify_key}


def proto(rules, **changes):
    named = rules.events_name_themselves
    fields = {
        "room_id": "!" + "r" * 43 if rules.room_id_is_create_hash else "!r:one.example",
        "sender": "@a:one.example",
        "event_type": "m.room.message",
        "content": {"body": "hello"},
        "prev_events": [["$p:one.example", {"sha256": "p" * 43}]] if named else ["$" + "p" * 43],
        "auth_events": [["$a:two.example", {"sha256": "a" * 43}]] if named else ["$" + "a" * 43],
        "depth": 3,
        "origin_server_ts": 1_700_000_000_000,
    }
    return template(rules, **{**fields, **changes})


def made(rules, **changes):
    return complete(proto(rules, **changes), rules, "one.example", KEY)


@given(st.sampled_from(list(SUPPORTED.values())), st.dictionaries(text, values, max_size=3), st.none() | text)
@settings(max_examples=80, deadline=None)
def test_whatever_is_drafted_passes_every_check_on_receipt_and_travels_unchanged(rules, content, state_key):
    event = made(rules, content=content, state_key=state_key)
    received = open_pdu(canonical_json.decode(canonical_json.encode(event.pdu)), rules)
    assert isinstance(received, Event)
    assert received == event
    assert received.pdu == event.pdu
    assert check_hash(received)
    assert check_signatures(received, KEYS) == ACCEPTED
    assert received.event_id == event_id_of(event.redacted().pdu, rules)
    assert check_signatures(received.redacted(), KEYS) == ACCEPTED


def test_the_create_event_of_a_version_12_room_is_drafted_without_a_room_id():
    create = made(
        V12, room_id=None, event_type="m.room.create", state_key="", content={"room_version": "12"}, prev_events=[]
    )
    assert create.room_id == "!" + create.event_id[1:]
    with pytest.raises(BadJson):
        made(V12, event_type="m.room.create", state_key="")


def test_redacts_goes_where_the_version_keeps_it():
    old, new = (made(rules, event_type="m.room.redaction", content={}, redacts="$x") for rules in (V10, V11))
    assert old.pdu["redacts"] == "$x"
    assert old.content == {}
    assert new.content == {"redacts": "$x"}
    assert "redacts" not in new.pdu
    assert old.redacts == new.redacts == "$x"


def test_unsigned_is_carried_but_changes_nothing_that_is_signed():
    plain, marked = made(V11), made(V11, unsigned={"replaces_state": "$x"})
    assert marked.pdu["unsigned"] == {"replaces_state": "$x"}
    assert marked == plain
    assert marked.pdu["signatures"] == plain.pdu["signatures"]


def test_an_answered_template_is_completed_afresh():
    answered = {**proto(V11), "event_id": "$fake", "hashes": {"sha256": "x"}, "signatures": {"two.example": {}}}
    event = complete(answered, V11, "one.example", KEY)
    assert "event_id" not in event.pdu
    assert event.pdu["signatures"].keys() == {"one.example"}
    assert check_hash(event)


@pytest.mark.parametrize(
    "changes",
    [
        {"content": {"a": 1.5}},
        {"content": {"a": 1.0}},
        {"content": {"a": 2**53}},
        {"content": {"a": "\ud800"}},
        {"sender": "nobody"},
        {"room_id": "!r"},
        {"room_id": None},
        {"prev_events": ["$p:one.example"]},
        {"prev_events": ["$" + "p" * 43] * 21},
        {"depth": -1},
    ],
)
def test_what_is_no_event_is_refused_as_bad_json(changes):
    with pytest.raises(BadJson):
        made(V6, **changes)


@pytest.mark.parametrize("lacking", ["type", "content", "sender", "prev_events", "depth"])
def test_a_template_that_lacks_something_is_refused_as_bad_json(lacking):
    pdu = proto(V11)
    del pdu[lacking]
    with pytest.raises(BadJson):
        complete(pdu, V11, "one.example", KEY)


@pytest.mark.parametrize("wrong", [{"content": "text"}, {"content": None}, {"type": ["x"]}, {"prev_events": 5}])
def test_a_template_of_the_wrong_shape_is_refused_as_bad_json(wrong):
    with pytest.raises(BadJson):
        complete({**proto(V11), **wrong}, V11, "one.example", KEY)


@pytest.mark.parametrize(
    "changes", [{"content": {"body": "x" * 65_500}}, {"event_type": "t" * 256}, {"state_key": "ü" * 128}]
)
def test_what_is_too_large_is_refused_as_such(changes):
    with pytest.raises(TooLarge) as raised:
        made(V11, **changes)
    assert raised.value.status == 413


@pytest.mark.parametrize("rules", [V1, V2])
def test_an_event_of_the_first_versions_is_named_by_the_server_that_makes_it(rules):
    event = made(rules, unsigned={"age": 1})
    assert event.event_id == event.pdu["event_id"]
    assert is_domain_event_id(event.event_id)
    assert domain_of(event.event_id) == "one.example"
    answered = {**proto(rules), "event_id": "$theirs:two.example"}
    assert complete(answered, rules, "one.example", KEY) == event == made(rules)
    others = [made(rules, content={"body": "hi"}), made(rules, origin_server_ts=1), made(rules, prev_events=[])]
    assert len({event, *others}) == 4


def test_events_refer_to_others_as_their_version_does():
    named, hashed = made(V1), made(V6)
    pair = [named.event_id, {"sha256": encode_base64(reference_hash(named.pdu, V1))}]
    assert references([named, named.redacted()]) == [pair, pair]
    assert references([hashed]) == [hashed.event_id]
    assert made(V1, prev_events=references([named])).prev_events == (named.event_id,)


@pytest.mark.parametrize("reference", ["$p:x", ["$p:x"], ["$p", {}], ["$p:x", {}, {}], [5, {}], ["$p:x", "hash"]])
def test_a_reference_of_the_first_versions_is_an_id_with_hashes(reference):
    with pytest.raises(BadJson):
        made(V1, prev_events=[reference])


@given(st.sampled_from([V1, V2, V3, V4, V5]), st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**400), 10**400))
@settings(max_examples=60, deadline=None)
def test_old_rooms_take_any_number_and_keep_it(rules, number):
    event = made(rules, content={"n": [number]})
    received = open_pdu(canonical_json.decode_exact(canonical_json.encode_lenient(event.pdu)), rules)
    assert isinstance(received, Event)
    (read,) = received.content["n"]
    assert (type(read), repr(read)) == (type(number), repr(number))
    assert check_hash(received)
    assert check_signatures(received, KEYS) == ACCEPTED


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_old_rooms_take_no_number_that_json_does_not_have(number):
    with pytest.raises(BadJson):
        made(V1, content={"n": number})


def test_a_countersigned_event_is_the_same_event_with_both_signatures():
    event = made(V11, unsigned={"age": 1})
    ours = SigningKey(bytes(31) + b"1", "ed25519:ours")
    signed = countersign(event, "two.example", ours)
    assert signed == event
    assert signed.pdu["signatures"].keys() == {"one.example", "two.example"}
    assert event.pdu["signatures"].keys() == {"one.example"}
    assert check_format(signed.pdu, V11) == ACCEPTED
    assert check_signatures(signed, KEYS) == ACCEPTED


def test_an_event_is_one_deeper_than_the_deepest_before_it():
    assert depth_after([], V11) == 1
    assert depth_after([3, 9, 4], V11) == 10
    assert depth_after([2**53 - 1], V11) == 2**53 - 1


def test_no_event_of_ours_is_deeper_than_every_server_takes_but_deeper_ones_of_others_are_taken_in_old_rooms():
    assert depth_after([2**63 - 1], V1) == 2**53 - 1
    named = {"prev_events": [["$p:x", {}]], "auth_events": [], "event_id": "$e:one.example"}
    deep = {**made(V1).pdu, **named, "depth": 2**63 - 1}
    assert check_format(deep, V1) == ACCEPTED
    assert isinstance(check_format({**deep, "depth": 2**63}, V1), Dropped)
