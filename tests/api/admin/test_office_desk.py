"""Registration tokens, reports, destinations and server notices, as administrators meet them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from tests.api.admin.office import Office
from tests.flows.world import EPOCH, until

ALICE, BOB, ROOT = "@alice:a.test", "@bob:a.test", "@root:a.test"
LATER = int(EPOCH + 10**7) * 1000


async def test_registration_tokens_are_made_listed_changed_and_deleted(office: Office, autojump_clock: object) -> None:
    path = ("v1", "registration_tokens")
    made = await office.ok("POST", *path, "new", json={"token": "abcd", "uses_allowed": 3, "expiry_time": LATER})
    assert made == {"token": "abcd", "uses_allowed": 3, "pending": 0, "completed": 0, "expiry_time": LATER}
    other = await office.ok("POST", *path, "new", json={"length": 20})
    assert (len(other["token"]), other["uses_allowed"], other["expiry_time"]) == (20, None, None)
    await office.ok("PUT", *path, "abcd", json={"uses_allowed": 0})
    assert await office.ok("GET", *path, "abcd") == {**made, "uses_allowed": 0}
    assert [one["token"] for one in (await office.ok("GET", *path, valid="false"))["registration_tokens"]] == ["abcd"]
    assert [one["token"] for one in (await office.ok("GET", *path, valid="true"))["registration_tokens"]] == [other["token"]]
    assert len((await office.ok("GET", *path))["registration_tokens"]) == 2
    assert await office.ok("DELETE", *path, "abcd") == {}
    for method in ("GET", "PUT", "DELETE"):
        assert await office.refused(method, *path, "abcd") == (404, "M_NOT_FOUND")
    wrong: list[dict[str, Any]] = [
        {"token": "a b"}, {"token": other["token"]}, {"length": 0}, {"length": "x"}, {"uses_allowed": -1}, {"uses_allowed": 1.5},
        {"expiry_time": 1}, {"expiry_time": "x"},
    ]  # fmt: skip
    for body in wrong:
        assert await office.refused("POST", *path, "new", json=body) == (400, "M_INVALID_PARAM"), body


async def test_reports_reach_the_administrator(office: Office, autojump_clock: object) -> None:
    room_id = await office.alice.create_room(name="Harbour", preset="public_chat")
    await office.bob.join(room_id)
    event_id = await office.bob.say(room_id, "spam")
    at = f"/rooms/{quote(room_id)}/report"
    await office.alice.ok("POST", f"{at}/{quote(event_id)}", {"reason": "it is spam", "score": -100})
    await office.alice.ok("POST", at, {"reason": ""})
    await office.alice.ok("POST", f"/users/{BOB}/report", {"reason": "a spammer"})
    listed = await office.ok("GET", "v1", "event_reports")
    report = listed["event_reports"][0]
    assert listed["total"] == 1
    assert {**report, "id": 0, "received_ts": 0} == {
        "id": 0, "received_ts": 0, "room_id": room_id, "event_id": event_id, "user_id": ALICE, "score": -100, "reason": "it is spam",
        "sender": BOB, "name": "Harbour", "canonical_alias": None,
    }  # fmt: skip
    whole = await office.ok("GET", "v1", "event_reports", str(report["id"]))
    assert whole["event_json"]["content"]["body"] == "spam"
    for query, total in (({"user_id": "alice"}, 1), ({"user_id": "bob"}, 0), ({"room_id": room_id}, 1), ({"event_sender_user_id": BOB}, 1)):
        assert (await office.ok("GET", "v1", "event_reports", **query))["total"] == total, query
    users = await office.ok("GET", "v1", "user_reports", target_user_id="bob")
    assert (users["total"], users["user_reports"][0]["target_user_id"]) == (1, BOB)
    rooms = await office.ok("GET", "v1", "room_reports")
    assert rooms["room_reports"][0]["room_id"] == room_id
    assert await office.ok("DELETE", "v1", "event_reports", str(report["id"])) == {}
    assert await office.refused("GET", "v1", "event_reports", str(report["id"])) == (404, "M_NOT_FOUND")
    assert await office.refused("DELETE", "v1", "event_reports", str(report["id"])) == (404, "M_NOT_FOUND")
    assert await office.refused("GET", "v1", "event_reports", "one") == (400, "M_INVALID_PARAM")


async def test_reports_come_in_pages_the_newest_first(office: Office, autojump_clock: object) -> None:
    room_id = await office.alice.create_room()
    for n in range(3):
        event_id = await office.alice.say(room_id, str(n))
        await office.alice.ok("POST", f"/rooms/{quote(room_id)}/report/{quote(event_id)}", {"reason": str(n)})
    first = await office.ok("GET", "v1", "event_reports", limit="2")
    assert ([one["reason"] for one in first["event_reports"]], first["next_token"], first["total"]) == (["2", "1"], 2, 3)
    last = await office.ok("GET", "v1", "event_reports", limit="2", **{"from": "2"})
    assert ([one["reason"] for one in last["event_reports"]], "next_token" in last) == (["0"], False)
    assert [one["reason"] for one in (await office.ok("GET", "v1", "event_reports", dir="f"))["event_reports"]] == ["0", "1", "2"]


async def test_destinations_are_shown_and_a_pause_is_ended(office: Office, autojump_clock: object) -> None:
    other = await office.world.box("b")
    carol = await other.person("carol")
    room_id = await office.alice.create_room(preset="public_chat")
    await carol.join(room_id, via="a.test")
    path = ("v1", "federation", "destinations")
    await until(lambda: _sees(office, failing=False))
    assert await office.refused("POST", *path, "b.test", "reset_connection") == (400, "M_UNKNOWN")
    assert [one["room_id"] for one in (await office.ok("GET", *path, "b.test", "rooms"))["rooms"]] == [room_id]
    office.world.internet.cut("a.test", "b.test")
    await office.alice.say(room_id, "nobody hears")
    await until(lambda: _sees(office, failing=True))
    shown = await office.ok("GET", *path, "b.test")
    assert shown["destination"] == "b.test"
    assert shown["failure_ts"] > 0
    assert shown["retry_last_ts"] > 0
    await until(lambda: _waits_long(office), seconds=10**5)
    office.world.internet.heal()
    before = office.world.internet.requests
    assert await office.ok("POST", *path, "b.test", "reset_connection") == {}
    await until(lambda: _sees(office, failing=False), seconds=30)
    assert office.world.internet.requests > before
    listed = await office.ok("GET", *path, order_by="failure_ts", dir="b")
    assert (listed["total"], [one["destination"] for one in listed["destinations"]]) == (1, ["b.test"])
    for name in ("nobody.test", "a.test"):
        assert await office.refused("GET", *path, name) == (404, "M_NOT_FOUND")


async def _sees(office: Office, *, failing: bool) -> bool:
    answer = await office.call("GET", "v1", "federation", "destinations", "b.test")
    return answer.status == 200 and (answer.json["failure_ts"] is not None) == failing


async def _waits_long(office: Office) -> bool:
    shown = await office.ok("GET", "v1", "federation", "destinations", "b.test")
    return bool(shown["retry_interval"] > 10**6)


async def test_a_notice_comes_into_a_room_of_its_own_that_cannot_be_left(office: Office, autojump_clock: object) -> None:
    wish = {"user_id": ALICE, "content": {"msgtype": "m.text", "body": "The box restarts at noon."}}
    first = await office.ok("PUT", "v1", "send_server_notice", "t1", json=wish)
    assert await office.ok("PUT", "v1", "send_server_notice", "t1", json=wish) == first
    second = await office.ok("POST", "v1", "send_server_notice", json=wish)
    assert second != first
    invited = (await office.alice.sync())["rooms"]["invite"]
    [room_id] = invited
    refused = await office.alice.request("POST", f"/rooms/{quote(room_id)}/leave")
    assert (refused.status, refused.json["errcode"]) == (403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")
    tags = await office.alice.ok("GET", f"/user/{ALICE}/rooms/{quote(room_id)}/tags")
    assert tags == {"tags": {"m.server_notice": {}}}
    await office.alice.join(room_id)
    assert await office.alice.texts(room_id) == ["The box restarts at noon."] * 2
    answered = await office.alice.request("PUT", f"/rooms/{quote(room_id)}/send/m.room.message/1", {"msgtype": "m.text", "body": "x"})
    assert answered.status == 403
    for method, path, body in (
        ("POST", "leave", None),
        ("PUT", f"state/m.room.member/{ALICE}", {"membership": "leave"}),
    ):
        refused = await office.alice.request(method, f"/rooms/{quote(room_id)}/{path}", body)
        assert (refused.status, refused.json["errcode"]) == (403, "M_CANNOT_LEAVE_SERVER_NOTICE_ROOM")
    assert (await office.ok("GET", "v2", "users", "@notices:a.test"))["displayname"] == "Server Notices"


async def test_the_room_of_notices_is_made_anew_when_it_is_gone(office: Office, autojump_clock: object) -> None:
    wish = {"user_id": ALICE, "content": {"msgtype": "m.text", "body": "x"}}
    await office.ok("POST", "v1", "send_server_notice", json=wish)
    [first] = (await office.alice.sync())["rooms"]["invite"]
    await office.ok("DELETE", "v1", "rooms", first)
    await office.ok("POST", "v1", "send_server_notice", json=wish)
    [second] = (await office.alice.sync())["rooms"]["invite"]
    assert second != first


async def test_notices_for_nobody_are_refused(office: Office, autojump_clock: object) -> None:
    content = {"msgtype": "m.text", "body": "x"}
    for body, error in (
        ({"user_id": "@nobody:a.test", "content": content}, (404, "M_NOT_FOUND")),
        ({"user_id": "@x:b.test", "content": content}, (400, "M_UNKNOWN")),
        ({"user_id": ALICE}, (400, "M_MISSING_PARAM")),
        ({"user_id": ALICE, "content": "x"}, (400, "M_BAD_JSON")),
    ):
        assert await office.refused("POST", "v1", "send_server_notice", json=body) == error
    assert await office.refused("PUT", "v1", "send_server_notice", "x" * 256, json={"user_id": ALICE, "content": content}) == (
        400,
        "M_INVALID_PARAM",
    )
