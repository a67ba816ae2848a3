"""How observed syncs go on, in each of their forms, and which of their answers are worth telling."""

from __future__ import annotations

import orjson
import pytest

from transports import syncing
from transports.exchange import Request
from transports.syncing import Answer, Form

DEPLOYED = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
KEYS = {"device_one_time_keys_count": {"signed_curve25519": 50}}


def answer(form: Form, **told) -> Answer:
    return Answer(orjson.dumps(told), form)


@pytest.mark.parametrize(
    ("method", "target", "form"),
    [
        ("GET", "/_matrix/client/v3/sync?since=1", Form.CLASSIC),
        ("GET", "/_matrix/client/r0/sync", Form.CLASSIC),
        ("POST", f"{DEPLOYED}?pos=3", Form.IN_QUERY),
        ("POST", "/_matrix/client/v4/sync", Form.IN_BODY),
        ("POST", "/_matrix/client/v3/sync", None),
        ("GET", "/_matrix/client/v3/events", None),
        ("PUT", DEPLOYED, None),
    ],
)
def test_what_can_be_observed_is_told_by_method_and_path(method, target, form):
    assert syncing.form_of(Request(method, target)) is form


def test_each_form_goes_on_from_its_position_and_waits():
    classic = Request("GET", "/_matrix/client/v3/sync?filter=1&since=a&full_state=true")
    assert syncing.after(classic, Form.CLASSIC, "b").target == "/_matrix/client/v3/sync?filter=1&since=b&timeout=300000"
    assert syncing.patient(classic, Form.CLASSIC).target == "/_matrix/client/v3/sync?filter=1&since=a&full_state=true&timeout=300000"
    deployed = Request("POST", f"{DEPLOYED}?timeout=0&pos=s1_a_1", body=b'{"lists":{}}')
    assert syncing.after(deployed, Form.IN_QUERY, "s2_a_2").target == f"{DEPLOYED}?pos=s2_a_2&timeout=300000"
    assert syncing.after(deployed, Form.IN_QUERY, "s2_a_2").body == deployed.body
    accepted = Request("POST", "/_matrix/client/v4/sync", body=b'{"lists":{},"timeout":5}')
    assert orjson.loads(syncing.after(accepted, Form.IN_BODY, "s2_a_2").body) == {"lists": {}, "pos": "s2_a_2", "timeout": 300_000}
    assert orjson.loads(syncing.patient(accepted, Form.IN_BODY).body) == {"lists": {}, "timeout": 300_000}


def test_where_a_request_stands_is_read_from_where_its_form_has_it():
    assert syncing.position_of(Request("GET", "/_matrix/client/v3/sync?since=a%2Fb"), Form.CLASSIC) == "a/b"
    assert syncing.position_of(Request("GET", "/_matrix/client/v3/sync?since="), Form.CLASSIC) is None
    assert syncing.position_of(Request("POST", f"{DEPLOYED}?pos=7"), Form.IN_QUERY) == "7"
    assert syncing.position_of(Request("POST", "/_matrix/client/v4/sync", body=b'{"pos":"7"}'), Form.IN_BODY) == "7"
    assert syncing.position_of(Request("POST", "/_matrix/client/v4/sync", body=b"no JSON"), Form.IN_BODY) is None


def test_the_position_of_an_answer_may_be_a_number_and_is_none_of_what_is_no_answer():
    assert answer(Form.IN_QUERY, pos=7).position == "7"
    assert answer(Form.CLASSIC, next_batch="s1").position == "s1"
    assert answer(Form.CLASSIC, pos="s1").position is None
    assert answer(Form.IN_QUERY, pos=True).position is None
    assert Answer(b"[1]", Form.CLASSIC).position is None


def test_time_that_has_passed_is_no_news_whatever_stands_there_every_time():
    quiet = answer(Form.CLASSIC, next_batch="2", rooms={"join": {}}, to_device={"events": []}, **KEYS)
    assert not quiet.has_news(KEYS)
    assert quiet.has_news({})
    assert answer(Form.CLASSIC, next_batch="2", rooms={"join": {"!r": {"timeline": {"events": [1]}}}}, **KEYS).has_news(KEYS)
    assert answer(Form.CLASSIC, next_batch="2", device_one_time_keys_count={"signed_curve25519": 49}).has_news(KEYS)
    read = {"timeline": {"events": []}, "unread_notifications": {"highlight_count": 0, "notification_count": 0}}
    assert answer(Form.CLASSIC, next_batch="2", rooms={"join": {"!r": read}}, **KEYS).has_news(KEYS), "read on another device"
    lists = {"all": {"count": 20}}
    calm = {
        "e2ee": {**KEYS, "device_unused_fallback_key_types": []},
        "to_device": {"next_batch": "8", "events": []},
        "receipts": {"rooms": {}},
    }
    still = answer(Form.IN_QUERY, pos="2", lists=lists, rooms={}, extensions=calm)
    assert not still.has_news(still.counts)
    assert answer(Form.IN_QUERY, pos="2", lists={"all": {"count": 21}}, extensions=calm).has_news(still.counts)
    changed = {**calm, "e2ee": {**KEYS, "device_lists": {"changed": ["@a:b"]}}}
    assert answer(Form.IN_QUERY, pos="2", lists=lists, extensions=changed).has_news(still.counts)


def test_messages_to_the_device_are_seen_in_every_form():
    assert answer(Form.CLASSIC, next_batch="2", to_device={"events": [{"type": "x"}]}).has_to_device
    assert answer(Form.IN_QUERY, pos="2", extensions={"to_device": {"next_batch": "3", "events": [{"type": "x"}]}}).has_to_device
    assert not answer(Form.IN_QUERY, pos="2", extensions={"to_device": {"next_batch": "3"}}).has_to_device
    assert not answer(Form.CLASSIC, next_batch="2", to_device=[]).has_to_device
