"""The application as a whole: paths, methods, errors, bodies, CORS."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio

from edgeserver.api.application import Application
from edgeserver.api.authentication import AccessTokens, FixedTokens
from edgeserver.api.endpoint import BODY_SECONDS, Auth, Call, Gate, endpoint
from edgeserver.matrix import errors
from edgeserver.users.requester import Requester
from tests.asgi import AsgiClient, section_application
from transports.exchange import LinkProfile


async def echo(call: Call) -> dict[str, Any]:
    requester = call.requester_if_any
    return {"path": dict(call.path), "query": dict(call.query), "user": requester and requester.user_id}


async def echo_json(call: Call) -> dict[str, Any]:
    return await call.json()


def client(*routes: Any, **options: Any) -> AsgiClient:
    return AsgiClient(section_application([r for rs in routes for r in rs], {"alice": "@alice:test"}), **options)


async def test_parameters_are_decoded_one_by_one_so_that_an_alias_may_hold_a_slash() -> None:
    c = client(endpoint("GET", "/_matrix/client/v3/directory/room/{alias}", echo, auth=Auth.NONE))
    answer = await c.get("/_matrix/client/v3/directory/room/%23a%2Fb%20%C3%A4%3Atest?x=%2B")
    assert answer.json["path"] == {"alias": "#a/b ä:test"}
    assert answer.json["query"] == {"x": "+"}


async def test_v3_paths_are_served_under_r0_too() -> None:
    c = client(endpoint("GET", "/_matrix/client/v3/x", echo, auth=Auth.NONE))
    assert (await c.get("/_matrix/client/r0/x")).status == 200


async def test_a_literal_segment_goes_before_a_parameter_and_the_method_decides_between_them() -> None:
    c = client(
        endpoint("GET", "/a/{x}/c", echo, auth=Auth.NONE),
        endpoint("PUT", "/a/b/c", echo, auth=Auth.NONE),
        endpoint("GET", "/a/b/{y}/d", echo, auth=Auth.NONE),
        endpoint("GET", "/files/{name:path}", echo, auth=Auth.NONE),
        endpoint("GET", "/state/{type}/", echo, auth=Auth.NONE),
        endpoint("GET", "/state/{type}/{key}", echo, auth=Auth.NONE),
    )
    assert (await c.get("/a/b/c")).json["path"] == {"x": "b"}
    assert (await c.put("/a/b/c")).json["path"] == {}
    assert (await c.get("/a/b/q/d")).json["path"] == {"y": "q"}
    assert (await c.get("/files/x/y%2Fz")).json["path"] == {"name": "x/y/z"}
    assert (await c.get("/state/m.x/")).json["path"] == {"type": "m.x"}
    assert (await c.get("/state/m.x/k")).json["path"] == {"type": "m.x", "key": "k"}


async def test_two_endpoints_cannot_claim_the_same_path_and_method() -> None:
    with pytest.raises(ValueError, match="twice"):
        client(endpoint("GET", "/a/{x}", echo), endpoint("GET", "/a/{y}", echo))


async def test_unknown_paths_are_404_and_unknown_methods_405_and_both_say_m_unrecognized() -> None:
    c = client(endpoint("GET", "/a/{x}", echo))
    unknown, wrong = await c.get("/b"), await c.post("/a/1")
    assert (unknown.status, unknown.json["errcode"]) == (404, "M_UNRECOGNIZED")
    assert (wrong.status, wrong.json["errcode"], wrong.headers["allow"]) == (405, "M_UNRECOGNIZED", "GET, HEAD")
    assert (await c.get("/a/%ff")).json["errcode"] == "M_INVALID_PARAM"
    assert (await c.get("/a/")).status == 404


async def test_cors_is_on_every_answer_but_costs_nothing_on_a_thin_line() -> None:
    routes = endpoint("GET", "/a", echo, auth=Auth.NONE)
    c = client(routes)
    for answer in (await c.get("/a"), await c.get("/unknown"), await c.request("OPTIONS", "/anything")):
        assert answer.headers["access-control-allow-origin"] == "*"
        assert "Authorization" in answer.headers["access-control-allow-headers"]
    assert (await c.request("OPTIONS", "/a")).status == 204
    thin = client(routes, link=LinkProfile("radio", bit_rate=1200, peer="box.test"))
    assert "access-control-allow-origin" not in (await thin.get("/a")).headers


async def test_a_request_without_a_token_or_with_a_wrong_one_is_refused() -> None:
    c = client(endpoint("GET", "/a", echo), endpoint("GET", "/o", echo, auth=Auth.OPTIONAL))
    missing, wrong, good = await c.get("/a"), await c.get("/a", token="x"), await c.get("/a", token="alice")
    assert (missing.status, missing.json["errcode"]) == (401, "M_MISSING_TOKEN")
    assert (wrong.status, wrong.json["errcode"], wrong.json["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", False)
    assert (good.status, good.json["user"]) == (200, "@alice:test")
    assert (await c.get("/o")).json["user"] is None
    assert (await c.get("/o", token="x")).status == 401
    assert (await c.get("/a", headers={"Authorization": "Basic abc"})).json["errcode"] == "M_MISSING_TOKEN"
    assert (await c.get("/a?access_token=alice")).status == 401


async def test_the_query_parameter_carries_a_token_only_where_that_is_allowed() -> None:
    tokens = AccessTokens(FixedTokens({"alice": Requester("@alice:test")}), in_query=True)
    c = AsgiClient(Application(endpoint("GET", "/a", echo), Gate(tokens)))
    assert (await c.get("/a?access_token=alice")).json["user"] == "@alice:test"


async def test_bodies_are_bounded_and_must_be_json_objects() -> None:
    c = client(endpoint("PUT", "/j", echo_json, auth=Auth.NONE, max_body=100))
    cases = [
        (b"", "M_NOT_JSON"), (b"{", "M_NOT_JSON"), (b"[]", "M_BAD_JSON"), (b'{"a":"' + b"x" * 100 + b'"}', "M_TOO_LARGE"),
        (b"\xff", "M_NOT_JSON"), (b"[" * 101, "M_TOO_LARGE"),
    ]  # fmt: skip
    for body, errcode in cases:
        assert (await c.request("PUT", "/j", body=body)).json["errcode"] == errcode
    assert (await c.request("PUT", "/j", body=b"{}", headers={"Content-Length": "9" * 50})).status == 413
    assert (await c.put("/j", {"a": 1})).json == {"a": 1}


async def test_a_client_that_falls_silent_in_the_middle_of_its_request_is_let_go(autojump_clock: Any) -> None:
    app = section_application(endpoint("PUT", "/j", echo_json, auth=Auth.NONE))
    messages, sent = [{"type": "http.request", "body": b'{"a":', "more_body": True}], []

    async def receive() -> Any:
        return messages.pop() if messages else await trio.sleep_forever()

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "PUT", "path": "/j", "raw_path": b"/j", "query_string": b"", "headers": [], "client": None}
    began = trio.current_time()
    await app(scope, receive, send)
    assert sent[0]["status"] == 408
    assert b"M_UNKNOWN" in sent[1]["body"]
    assert trio.current_time() - began == BODY_SECONDS


async def test_a_failure_is_m_unknown_to_the_client_and_a_traceback_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(call: Call) -> dict[str, Any]:
        raise RuntimeError("secret")

    c = client(endpoint("GET", "/f", fails, auth=Auth.NONE))
    with caplog.at_level(logging.CRITICAL + 1):
        answer = await c.get("/f")
    assert answer.status == 500
    assert answer.json["errcode"] == "M_UNKNOWN"
    assert b"secret" not in answer.body


async def test_an_error_raised_inside_a_nursery_keeps_its_code() -> None:
    async def fails(call: Call) -> dict[str, Any]:
        async with trio.open_nursery():
            raise errors.LimitExceeded(1500)

    answer = await client(endpoint("GET", "/f", fails, auth=Auth.NONE)).get("/f")
    assert (answer.status, answer.json["retry_after_ms"], answer.headers["retry-after"]) == (429, 1500, "2")


async def test_a_long_poll_ends_when_its_client_goes_away() -> None:
    ended = trio.Event()

    async def waits(call: Call) -> dict[str, Any]:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    app = section_application(endpoint("GET", "/wait", waits, auth=Auth.NONE, long_poll=True))
    messages = [{"type": "http.disconnect"}, {"type": "http.request", "body": b""}]

    async def receive() -> dict[str, Any]:
        return messages.pop()

    async def send(message: Any) -> None:
        raise AssertionError("nobody is there to be answered")

    await app({"type": "http", "method": "GET", "path": "/wait", "headers": []}, receive, send)
    assert ended.is_set()


async def test_a_long_poll_answers_like_any_other() -> None:
    c = client(endpoint("POST", "/wait", echo_json, auth=Auth.NONE, long_poll=True))
    assert (await c.post("/wait", {"a": 1})).json == {"a": 1}
