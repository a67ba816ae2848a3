"""GET /mutual_rooms."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeserver.api.client import mutual_rooms
from tests.api.rooms_house import Place, open_place
from tests.rooms.house import ALICE, BOB

PATH = "/_matrix/client/v1/mutual_rooms"


async def ask(place: Place, **query: str) -> tuple[int, dict[str, object]]:
    answer = await place.alice.request("GET", PATH, query=query)
    return answer.status, answer.json


async def test_rooms_that_both_are_in_are_listed_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mutual_rooms, "PAGE", 2)
    async with open_place(tmp_path) as place:
        made = sorted([await place.alice.create(preset="public_chat") for _ in range(7)])
        for room_id in made[:5]:
            await place.bob.ok("POST", "join", room_id)
        await place.bob.ok("POST", "rooms", made[0], "leave")
        await place.alice.ok("POST", "rooms", made[6], "invite", json={"user_id": BOB})
        status, page = await ask(place, user_id=BOB)
        assert (status, page) == (200, {"joined": made[1:3], "count": 4, "next_batch": made[2]})
        status, page = await ask(place, user_id=BOB, **{"from": made[2]})
        assert (status, page) == (200, {"joined": made[3:5], "count": 4})
        assert await ask(place, user_id="@nobody:elsewhere") == (200, {"joined": [], "count": 0})


@pytest.mark.parametrize("query", [{}, {"user_id": ""}, {"user_id": "bob"}, {"user_id": ALICE}, {"user_id": BOB, "from": "x"}])
async def test_what_cannot_be_asked_is_refused(tmp_path: Path, query: dict[str, str]) -> None:
    async with open_place(tmp_path) as place:
        status, answer = await ask(place, **query)
        assert (status, answer["errcode"]) == (400, "M_INVALID_PARAM")
