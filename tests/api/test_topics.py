"""Topics as an ntfy server has them, and the push gateway in front of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio

from edgeserver.api import push_gateway, topics
from edgeserver.api.ratelimit import Rate, RateLimiter
from edgeserver.push.topic_message import MAX_MESSAGE, MAX_PARAMETER
from edgeserver.push.topics import MAX_SUBSCRIPTIONS, MAX_SUBSCRIPTIONS_OF_ADDRESS, Topics
from edgeserver.push.unifiedpush import UnifiedPush
from edgeserver.store.database import open_database
from tests.asgi import AsgiClient, section_application
from transports.exchange import LinkProfile

TOPIC = "upAbCdEfGhIjKl"
NOW = 1_790_000_000_000
NOTIFY = "/_matrix/push/v1/notify"


class Rig:
    def __init__(self, made: Topics, limiter: RateLimiter | None = None) -> None:
        self.topics = made
        gateway = UnifiedPush(made, lambda scheme, authority: authority == "box.test")
        routes = [*topics.routes(made, lambda: NOW), *push_gateway.routes(gateway, made)]
        self.app = section_application(routes, limiter=limiter)
        self.client = AsgiClient(self.app)

    async def lines(self, target: str, **options: Any) -> list[dict[str, Any]]:
        answer = await self.client.get(target, **options)
        assert answer.status == 200, answer.body
        assert answer.headers["content-type"] == "application/x-ndjson; charset=utf-8"
        return [orjson.loads(line) for line in answer.body.splitlines()]

    async def refusal(self, method: str, target: str, **options: Any) -> tuple[int, int]:
        """Status and ntfy's code."""
        answer = await self.client.request(method, target, **options)
        assert set(answer.json) == {"code", "http", "error"}
        assert answer.json["http"] == answer.status
        return answer.status, answer.json["code"]


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_database(tmp_path / "x.db", inline=True) as db:
        made = Topics(db, lambda: NOW)
        await made.load()
        yield Rig(made)


async def test_what_is_published_can_be_polled(rig: Rig) -> None:
    published = await rig.client.request("POST", f"/{TOPIC}?title=T&priority=5&tags=a,b", body=b" hello \n")
    assert published.status == 200
    message = published.json
    assert set(message) == {"id", "time", "expires", "event", "topic", "message", "title", "priority", "tags"}
    assert (message["message"], message["title"], message["priority"], message["tags"]) == ("hello", "T", 5, ["a", "b"])
    assert await rig.lines(f"/{TOPIC}/json?poll=1") == [message]
    assert await rig.lines(f"/{TOPIC},{TOPIC}2/json?poll=1&since=all") == [message]
    assert await rig.lines(f"/{TOPIC}2/json?poll=1") == []
    assert await rig.lines(f"/{TOPIC}/json?poll=1&since={message['id']}") == []


async def test_headers_are_parameters_too_and_a_message_may_be_one(rig: Rig) -> None:
    headers = {"X-Title": "T", "Prio": "urgent", "Click": "https://x.test", "Icon": "https://x.test/i.png", "Markdown": "yes"}
    answer = await rig.client.request("PUT", f"/{TOPIC}", body=b"", headers={**headers, "X-Message": "two\\nlines"})
    assert answer.json["message"] == "two\nlines"
    expected = ("T", 5, "https://x.test", "https://x.test/i.png", "text/markdown")
    assert tuple(answer.json[key] for key in ("title", "priority", "click", "icon", "content_type")) == expected
    assert (await rig.client.request("PUT", f"/{TOPIC}", body=b"")).json["message"] == "triggered"
    # A browser's own Priority header (RFC 9218) is none of ours; titles come in UTF-8 or as RFC 2047 has it.
    for title in ("Fl\u00fct", "=?UTF-8?B?RmzDvHQ=?="):
        headers = {"Priority": "u=1, i", "Title": title}
        answer = (await rig.client.request("PUT", f"/{TOPIC}", body=b"x", headers=headers)).json
        assert (answer["title"], "priority" in answer) == ("Fl\u00fct", False)


async def test_since_is_an_id_a_time_a_duration_or_a_word(rig: Rig) -> None:
    said = [(await rig.client.request("PUT", f"/{TOPIC}", body=str(n).encode())).json for n in range(3)]
    for since, expected in (
        ("all", said), ("none", []), ("latest", said[2:]), (said[0]["id"], said[1:]), (str(NOW // 1000), said),
        (str(NOW // 1000 + 1), []), ("1h30m", said), ("10s", said), ("zzzzzzzzzzzz", said),
    ):  # fmt: skip
        assert await rig.lines(f"/{TOPIC}/json?poll=1&since={since}") == expected, since


async def test_unifiedpush_takes_any_bytes_and_leaves_them_as_they_are(rig: Rig) -> None:
    answer = await rig.client.request("POST", f"/{TOPIC}?up=1", body=b"\xff\x00")
    assert (answer.json["message"], answer.json["encoding"]) == ("/wA=", "base64")
    answer = await rig.client.request("POST", f"/{TOPIC}?up=1", body=b" as it is ")
    assert answer.json["message"] == " as it is "
    answer = await rig.client.request("POST", f"/{TOPIC}", body=b"\xff", headers={"Content-Encoding": "aes128gcm"})
    assert answer.json["encoding"] == "base64"


async def test_application_servers_are_told_to_stop_when_nobody_has_listened_for_long(rig: Rig) -> None:
    assert (await rig.client.request("POST", f"/{TOPIC}?up=1", body=b"x")).status == 200
    rig.topics._topics[TOPIC] = rig.topics._topics[TOPIC]._replace(created_at=0)
    assert await rig.refusal("POST", f"/{TOPIC}?up=1", body=b"x") == (404, 40401)
    assert (await rig.client.get(f"/{TOPIC}/json?poll=1")).status == 200
    assert (await rig.client.request("POST", f"/{TOPIC}?up=1", body=b"x")).status == 200


async def test_other_forms_and_what_the_app_asks(rig: Rig) -> None:
    await rig.client.request("PUT", f"/{TOPIC}", body=b"a\nb")
    assert (await rig.client.get(f"/{TOPIC}/raw?poll=1")).body == b"a b\n"
    sse = (await rig.client.get(f"/{TOPIC}/sse?poll=1")).body
    assert sse.startswith(b'data: {"id":')
    assert sse.endswith(b"\n\n")
    assert (await rig.client.get("/v1/health")).json == {"healthy": True}
    assert (await rig.client.get(f"/{TOPIC}/auth")).json == {"success": True}
    assert (await rig.client.get(f"/{TOPIC}?up=1")).json == {"unifiedpush": {"version": 1}}
    for path in (f"/{TOPIC}", "/element", "/x"):
        assert (await rig.client.get(path)).json["errcode"] == "M_UNRECOGNIZED"
    assert (await rig.client.request("HEAD", f"/{TOPIC}/json")).status == 200


@pytest.mark.parametrize(
    ("method", "target", "options", "code"),
    [
        ("PUT", "/alerts", {}, 40301),
        ("PUT", "/upShort", {}, 40301),
        ("GET", f"/{TOPIC},alerts/json?poll=1", {}, 40301),
        ("GET", "/alerts/auth", {}, 40301),
        ("GET", "/alerts?up=1", {}, 40301),
        ("GET", "/" + ",".join(f"{TOPIC}{n}" for n in range(31)) + "/json?poll=1", {}, 42903),
        ("PUT", f"/{TOPIC}", {"body": b"x" * (MAX_MESSAGE + 1)}, 41301),
        ("PUT", f"/{TOPIC}", {"body": b"x" * (MAX_MESSAGE * 9)}, 41301),
        ("PUT", f"/{TOPIC}", {"headers": {"Title": "x" * (MAX_PARAMETER + 1)}}, 41301),
        ("PUT", f"/{TOPIC}", {"body": b"\xff"}, 40011),
        ("PUT", f"/{TOPIC}?priority=9", {}, 40007),
        ("PUT", f"/{TOPIC}?icon=x", {}, 40021),
        ("PUT", f"/{TOPIC}?filename=a.png", {}, 40014),
        ("PUT", f"/{TOPIC}?attach=https://x.test/a.png", {}, 40014),
        ("PUT", f"/{TOPIC}?email=a@b.test", {}, 40001),
        ("PUT", f"/{TOPIC}?delay=1h", {}, 40004),
        ("PUT", f"/{TOPIC}?call=yes", {}, 40032),
        ("PUT", f"/{TOPIC}", {"headers": {"Actions": "view, Open, https://x.test"}}, 40018),
        ("GET", f"/{TOPIC}/json?since=yesterday", {}, 40008),
        ("GET", f"/{TOPIC}/ws", {}, 40016),
    ],
)
async def test_what_cannot_be_is_refused_as_ntfy_does(rig: Rig, method: str, target: str, options: dict[str, Any], code: int) -> None:
    assert await rig.refusal(method, target, **options) == (code // 100, code)


async def test_a_message_that_is_not_to_be_kept_is_not(rig: Rig) -> None:
    assert (await rig.client.request("PUT", f"/{TOPIC}?cache=no", body=b"x")).status == 200
    assert await rig.lines(f"/{TOPIC}/json?poll=1") == []


async def test_paths_of_others_are_not_shadowed(rig: Rig) -> None:
    for target in ("/_matrix", "/_matrix/json", "/.well-known", "/favicon.ico", "/a/b/json", "/%2e%2e", "/up%20AbCdEfGhIjKl"):
        for method in ("GET", "PUT"):
            answer = await rig.client.request(method, target)
            assert answer.json["errcode"] == "M_UNRECOGNIZED", target
            assert answer.status in (404, 405)


async def test_thin_lines_carry_no_topics(rig: Rig) -> None:
    rig.client.link = LinkProfile("radio", bit_rate=2400)
    for method, target in (("PUT", f"/{TOPIC}"), ("GET", f"/{TOPIC}/json?poll=1"), ("GET", f"/{TOPIC}/auth")):
        answer = await rig.client.request(method, target)
        assert (answer.status, answer.json["errcode"]) == (404, "M_UNRECOGNIZED")


async def test_too_many_requests_are_told_when_to_come_back(rig: Rig) -> None:
    limited = Rig(rig.topics, RateLimiter(lambda: NOW, rates={"topics": Rate(0.5, 2), "push_gateway": Rate(0.5, 1), "other": Rate(1, 1)}))
    for _ in range(2):
        assert (await limited.client.request("PUT", f"/{TOPIC}", body=b"x")).status == 200
    answer = await limited.client.request("PUT", f"/{TOPIC}", body=b"x")
    assert (answer.status, answer.json["code"], answer.headers["retry-after"]) == (429, 42901, "3")
    assert (await limited.client.request("POST", NOTIFY, json={"notification": {"devices": []}})).status == 200
    answer = await limited.client.request("POST", NOTIFY, json={"notification": {"devices": []}})
    assert (answer.status, answer.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")


async def test_there_are_only_so_many_subscriptions_of_an_address_and_in_all(rig: Rig) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(MAX_SUBSCRIPTIONS_OF_ADDRESS):
            nursery.start_soon(rig.client.get, f"/{TOPIC}/json")
        await trio.testing.wait_all_tasks_blocked()
        assert await rig.refusal("GET", f"/{TOPIC}/json") == (429, 42903)
        for other in range(MAX_SUBSCRIPTIONS // MAX_SUBSCRIPTIONS_OF_ADDRESS - 1):
            client = AsgiClient(rig.app, address=f"192.0.2.{10 + other}")
            for _ in range(MAX_SUBSCRIPTIONS_OF_ADDRESS):
                nursery.start_soon(client.get, f"/{TOPIC}/json")
        await trio.testing.wait_all_tasks_blocked()
        rig.client.address = "192.0.2.99"
        assert await rig.refusal("GET", f"/{TOPIC}/json") == (429, 42903)
        nursery.cancel_scope.cancel()
    assert await rig.lines(f"/{TOPIC}/json?poll=1") == []


async def test_a_stream_that_says_nothing_says_that_it_is_there(rig: Rig, autojump_clock: trio.testing.MockClock) -> None:
    sent: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message.get("body", b""))

    async def receive() -> dict[str, Any]:
        await trio.sleep(100)
        return {"type": "http.disconnect"}

    scope = {"type": "http", "method": "GET", "path": f"/{TOPIC}/json", "headers": [], "query_string": b""}
    await rig.app(scope, receive, send)
    assert [orjson.loads(body)["event"] for body in sent if body] == ["open", "keepalive", "keepalive"]


def device(pushkey: str, **more: Any) -> dict[str, Any]:
    return {"app_id": "app", "pushkey": pushkey, **more}


async def test_the_gateway_tells_each_device_of_this_box_and_rejects_the_others(rig: Rig) -> None:
    mine, named = f"https://box.test/{TOPIC}?up=1", f"http://test/{TOPIC}2"
    devices = [device(key) for key in (mine, named, "https://ntfy.sh/" + TOPIC, "https://box.test/x", "ftp://box.test/" + TOPIC, "")]
    body = {"notification": {"event_id": "$e", "room_id": "!r", "counts": {"unread": 1}, "devices": devices}}
    answer = await rig.client.post(NOTIFY, body)
    assert answer.json == {"rejected": [one["pushkey"] for one in devices[2:]]}
    [first] = await rig.lines(f"/{TOPIC}/json?poll=1")
    assert orjson.loads(first["message"]) == {"notification": {**body["notification"], "devices": [devices[0]]}}
    [second] = await rig.lines(f"/{TOPIC}2/json?poll=1")
    assert orjson.loads(second["message"])["notification"]["devices"] == [devices[1]]


async def test_what_is_too_large_for_a_phone_is_told_without_its_content(rig: Rig) -> None:
    key = f"https://box.test/{TOPIC}"
    said = {"event_id": "$e", "room_id": "!r", "prio": "high", "counts": {"unread": 1}}
    for more, left in ((({"content": {"body": "x" * 5000}}), device(key, data={"a": 1})), ({}, device(key))):
        data = {"a": 1} if more else {"a": "x" * 5000}
        body = {"notification": {**said, **more, "devices": [device(key, data=data)]}}
        assert (await rig.client.post(NOTIFY, body)).json == {"rejected": []}
        *_, last = await rig.lines(f"/{TOPIC}/json?poll=1")
        assert orjson.loads(last["message"]) == {"notification": {**said, "devices": [left]}}


@pytest.mark.parametrize(
    ("body", "errcode"),
    [
        ({}, "M_MISSING_PARAM"),
        ({"notification": []}, "M_BAD_JSON"),
        ({"notification": {}}, "M_BAD_JSON"),
        ({"notification": {"devices": [{"pushkey": 1}]}}, "M_BAD_JSON"),
    ],
)
async def test_a_notification_that_is_none_is_refused(rig: Rig, body: dict[str, Any], errcode: str) -> None:
    answer = await rig.client.post(NOTIFY, body)
    assert (answer.status, answer.json["errcode"]) == (400, errcode)
    assert (await rig.client.get(NOTIFY)).json == {"unifiedpush": {"gateway": "matrix"}}
    assert (await rig.client.delete(NOTIFY)).status == 405
