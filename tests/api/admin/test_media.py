"""Media, as administrators list, delete and quarantine it."""

from __future__ import annotations

from urllib.parse import quote

from edgeserver.store.media_upkeep import ORDERS
from tests.api.admin.office import Office
from tests.asgi import AsgiClient
from tests.flows.world import Person

ALICE, BOB = "@alice:a.test", "@bob:a.test"
DAY_MS = 86_400_000


async def _upload(office: Office, person: Person, body: bytes, name: str = "a.bin") -> str:
    client = AsgiClient(office.box.box.app, token=person.token)
    answer = await client.request(
        "POST", "/_matrix/media/v3/upload", body=body, query={"filename": name}, headers={"host": "client", "content-type": "text/plain"}
    )
    assert answer.status == 200, answer.body
    return str(answer.json["content_uri"]).rpartition("/")[2]


async def _is_served(office: Office, media_id: str) -> bool:
    client = AsgiClient(office.box.box.app, token=office.bob.token)
    return (await client.get(f"/_matrix/client/v1/media/download/a.test/{media_id}", headers={"host": "client"})).status == 200


async def test_what_somebody_has_uploaded_is_listed_and_deleted(office: Office, autojump_clock: object) -> None:
    small, large = await _upload(office, office.alice, b"x"), await _upload(office, office.alice, b"x" * 1000, "large.txt")
    await _upload(office, office.bob, b"bob's")
    path = ("v1", "users", ALICE, "media")
    listed = await office.ok("GET", *path, order_by="media_length", dir="b")
    assert (listed["total"], [one["media_id"] for one in listed["media"]]) == (2, [large, small])
    assert {key: value for key, value in listed["media"][0].items() if not key.endswith("_ts")} == {
        "media_id": large, "media_length": 1000, "media_type": "text/plain", "quarantined_by": None, "safe_from_quarantine": False,
        "upload_name": "large.txt",
    }  # fmt: skip
    for order in ORDERS:
        there, back = [await office.ok("GET", *path, order_by=order, dir=way) for way in "fb"]
        assert sorted(one["media_id"] for one in there["media"]) == sorted([small, large]), order
        ways = [[one["media_id"] for one in each["media"]] for each in (there, back)]
        assert ways[0] != ways[1] or len({one[order] for one in there["media"]}) == 1, order
    page = await office.ok("GET", *path, limit="1")
    assert (len(page["media"]), page["next_token"]) == (1, 1)
    assert await office.ok("DELETE", *path) == {"deleted_media": [one["media_id"] for one in await _newest(listed)], "total": 2}
    assert not await _is_served(office, large)
    assert (await office.ok("GET", *path))["total"] == 0
    assert await office.refused("GET", "v1", "users", "@nobody:a.test", "media") == (404, "M_NOT_FOUND")
    assert await office.refused("GET", *path, order_by="colour") == (400, "M_INVALID_PARAM")


async def _newest(listed: dict) -> list[dict]:
    return sorted(listed["media"], key=lambda one: (-one["created_ts"], one["media_id"]))


async def test_one_piece_is_deleted_or_put_into_quarantine(office: Office, autojump_clock: object) -> None:
    one, other = await _upload(office, office.alice, b"one"), await _upload(office, office.alice, b"other")
    assert await office.ok("DELETE", "v1", "media", "a.test", one) == {"deleted_media": [one], "total": 1}
    assert await office.refused("DELETE", "v1", "media", "a.test", one) == (404, "M_NOT_FOUND")
    assert await office.refused("DELETE", "v1", "media", "b.test", one) == (400, "M_UNKNOWN")
    assert await office.ok("POST", "v1", "media", "quarantine", "a.test", other) == {}
    assert not await _is_served(office, other)
    listed = (await office.ok("GET", "v1", "users", ALICE, "media"))["media"]
    assert [one["quarantined_by"] for one in listed] == ["a.test"]
    assert await office.ok("POST", "v1", "media", "unquarantine", "a.test", other) == {}
    assert await _is_served(office, other)
    assert await office.ok("POST", "v1", "user", ALICE, "media", "quarantine") == {"num_quarantined": 1}
    assert not await _is_served(office, other)


async def test_the_media_of_a_room_is_listed_and_put_into_quarantine(office: Office, autojump_clock: object) -> None:
    ours = await _upload(office, office.alice, b"picture")
    room_id = await office.alice.create_room()
    send = f"/rooms/{quote(room_id)}/send/m.room.message"
    for txn, uri, thumbnail in (("1", f"mxc://a.test/{ours}", "mxc://b.test/thumb"), ("2", "not mxc://a.test/x", None)):
        info = {} if thumbnail is None else {"thumbnail_url": thumbnail}
        await office.alice.ok("PUT", f"{send}/{txn}", {"msgtype": "m.image", "body": "mxc://a.test/no", "url": uri, "info": info})
    path = ("v1", "room", room_id, "media")
    assert await office.ok("GET", *path) == {"local": [f"mxc://a.test/{ours}"], "remote": ["mxc://b.test/thumb"]}
    assert await office.ok("POST", *path, "quarantine") == {"num_quarantined": 2}
    assert not await _is_served(office, ours)
    assert await office.ok("POST", "v1", "quarantine_media", room_id) == {"num_quarantined": 2}
    assert await office.refused("GET", "v1", "room", "!nowhere:a.test", "media") == (404, "M_NOT_FOUND")


async def test_old_and_large_media_goes_but_for_pictures_of_people_and_rooms(office: Office, autojump_clock: object) -> None:
    face, sign, old, small = [await _upload(office, office.alice, bytes(n)) for n in (100, 101, 102, 1)]
    await office.alice.ok("PUT", f"/profile/{ALICE}/avatar_url", {"avatar_url": f"mxc://a.test/{face}"})
    room_id = await office.alice.create_room()
    await office.alice.ok("PUT", f"/rooms/{quote(room_id)}/state/m.room.avatar/", {"url": f"mxc://a.test/{sign}"})
    later = str(office.box.box.ground.now_ms() + 2 * DAY_MS)
    path = ("v1", "media", "delete")
    assert await office.ok("POST", *path, before_ts="1") == {"deleted_media": [], "total": 0}
    assert await office.ok("POST", *path, before_ts=later, size_gt="50") == {"deleted_media": [old], "total": 1}
    gone = await office.ok("POST", *path, before_ts=later, keep_profiles="false")
    assert sorted(gone["deleted_media"]) == sorted([face, sign, small])
    assert await office.refused("POST", *path) == (400, "M_MISSING_PARAM")
    assert await office.ok("POST", "v1", "purge_media_cache", before_ts=later) == {"deleted": 0}
    assert await office.refused("POST", "v1", "purge_media_cache") == (400, "M_MISSING_PARAM")


async def test_who_has_uploaded_how_much_is_counted(office: Office, autojump_clock: object) -> None:
    await office.alice.ok("PUT", f"/profile/{ALICE}/displayname", {"displayname": "Wonder"})
    await _upload(office, office.alice, b"12345")
    for body in (b"1", b"2"):
        await _upload(office, office.bob, body)
    path = ("v1", "statistics", "users", "media")
    told = await office.ok("GET", *path)
    assert told == {
        "users": [
            {"displayname": "Wonder", "media_count": 1, "media_length": 5, "user_id": ALICE},
            {"displayname": None, "media_count": 2, "media_length": 2, "user_id": BOB},
        ],
        "total": 2,
    }
    assert [one["user_id"] for one in (await office.ok("GET", *path, order_by="media_count", dir="b"))["users"]] == [BOB, ALICE]
    assert (await office.ok("GET", *path, search_term="wond"))["total"] == 1
    assert (await office.ok("GET", *path, until_ts="1"))["total"] == 0
    assert (await office.ok("GET", *path, limit="1"))["next_token"] == 1
