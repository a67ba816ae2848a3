"""Whose a token is: learnt from what passes, forgotten when it is worth nothing any more, and kept over restarts without any token."""

from __future__ import annotations

import logging
from urllib.parse import quote

import orjson
import pytest
import trio

from edgeserver.proxy.filters import MAX_DEFINITION, MAX_KNOWN
from edgeserver.proxy.owners import MAX_TOKENS
from tests.proxy.rig import V3, Doorkeeper, HttpClient, rig_in_memory
from transports.exchange import Response

LOGIN = {"type": "m.login.password", "refresh_token": True}


async def test_a_login_and_a_refresh_tell_whose_the_tokens_are_and_the_box_is_not_asked(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        stranger = HttpClient(rig.app, "")
        first = (await stranger("POST", f"{V3}/login", LOGIN)).json
        assert await rig.app.owners.of(f"Bearer {first['access_token']}") == "@a:box"
        second = (await stranger("POST", f"{V3}/refresh", {"refresh_token": first["refresh_token"]})).json
        assert rig.app.owners.known(f"Bearer {second['access_token']}") == "@a:box"
        third = (await stranger("POST", f"{V3}/refresh", {"refresh_token": second["refresh_token"]})).json
        assert rig.app.owners.known(f"bearer {third['access_token']}") == "@a:box"
        assert rig.app.owners.known(f"Bearer {third['refresh_token']}") is None, "it gives access to nothing"
        assert rig.app.owners.known(f"Bearer {second['access_token']}") is None, "another has taken its place"
        again = (await stranger("POST", f"{V3}/refresh", {"refresh_token": second["refresh_token"], "lost": "the answer"})).json
        assert rig.app.owners.known(f"Bearer {again['access_token']}") == "@a:box"
        unknown = (await stranger("POST", f"{V3}/refresh", {"refresh_token": "from elsewhere"})).json
        assert rig.app.owners.known(f"Bearer {unknown['access_token']}") == "", "one of the box's people"
        assert rig.box.count("GET", "whoami") == 0


SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


@pytest.mark.parametrize(
    ("method", "path", "owner"),
    [
        ("GET", f"{V3}/account/whoami", "@a:box"),
        ("GET", f"{V3}/user/%40a%3Abox/account_data/m.direct", "@a:box"),
        ("POST", f"{V3}/user/@a:box/filter", "@a:box"),
        ("POST", f"{SLIDING}?timeout=0", ""),
        ("GET", f"{V3}/profile/@b:box", None),  # for which no token is needed
        ("GET", f"{V3}/account/whoami?user_id=@ghost:box", ""),
        ("GET", f"{V3}/user/@ghost:box/account_data/m.direct?user_id=@ghost:box", ""),
        ("GET", f"{V3}/user/@a:box/account_data/m.direct?" + "&".join("a=b" for _ in range(99)), ""),
    ],
)
async def test_an_answer_tells_whose_its_token_is_if_the_box_gives_it_to_nobody_else(tmp_path, autojump_clock, method, path, owner) -> None:
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        assert (await rig.client(method, path, {} if method == "POST" else None)).status == 200
        assert rig.app.owners.known("Bearer T") == owner
        assert len(rig.box.asked) == 1


async def test_the_box_is_asked_once_however_many_want_to_know_at_the_same_time(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        found = []

        async def ask() -> None:
            found.append(await rig.app.owners.of("Bearer T"))

        for _ in range(2):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(ask)
        assert found == ["@a:box"] * 6
        assert rig.box.count("GET", "whoami") == 1
        assert await rig.app.owners.of("Bearer stranger") is None
        assert await rig.app.owners.of("") is None
        assert rig.box.count("GET", "whoami") == 2


async def test_a_token_that_the_box_refuses_or_that_logs_out_is_forgotten(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        other = HttpClient(rig.app, "T2")
        for client in (rig.client, other):
            await client("GET", f"{V3}/account/whoami")
        rig.box.users.pop("T")
        assert (await rig.client("GET", f"{V3}/devices")).status == 401
        assert rig.app.owners.known("Bearer T") is None
        assert rig.app.owners.known("Bearer T2") == "@a:box"
        rig.cable.unplug()
        await rig.down()
        assert await other("POST", f"{V3}/logout", {}, patience=5) is None
        assert rig.app.owners.known("Bearer T2") is None, "although the box has not heard of it yet"


async def test_who_logs_out_everywhere_is_forgotten_everywhere(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        clients = {token: HttpClient(rig.app, token) for token in ("T", "T2", "U")}
        for client in clients.values():
            await client("GET", f"{V3}/account/whoami")
        assert (await clients["T"]("POST", f"{V3}/logout/all", {})).status == 200
        assert [rig.app.owners.known(f"Bearer {token}") for token in clients] == [None, None, "@b:box"]


async def test_with_the_last_token_of_a_person_that_could_be_refreshed_the_person_is_forgotten(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        gone: list[str] = []
        rig.app.owners.when_forgotten.append(gone.append)
        told = (await HttpClient(rig.app, "")("POST", f"{V3}/login", LOGIN)).json
        del rig.box.users[told["access_token"]]
        assert (await HttpClient(rig.app, told["access_token"])("GET", f"{V3}/devices")).status == 401
        assert len(gone) == 1, "it has expired, and may be refreshed"
        told = (await HttpClient(rig.app, "")("POST", f"{V3}/refresh", {"refresh_token": told["refresh_token"]})).json
        for _ in range(2):
            told = (await HttpClient(rig.app, "")("POST", f"{V3}/refresh", {"refresh_token": told["refresh_token"]})).json
        assert "@a:box" not in gone
        await HttpClient(rig.app, told["access_token"])("POST", f"{V3}/logout", {})
        assert gone[-1] == "@a:box"
        assert rig.app.owners._told() == []


async def test_a_refresh_token_that_the_box_refuses_is_forgotten(tmp_path, autojump_clock) -> None:
    class Refusing(Doorkeeper):
        async def __call__(self, request, gone):
            if request.target.endswith("/refresh"):
                return Response(401, (), b'{"errcode": "M_UNKNOWN_TOKEN"}')
            return await super().__call__(request, gone)

    async with rig_in_memory(tmp_path, box=Refusing()) as rig:
        told = (await HttpClient(rig.app, "")("POST", f"{V3}/login", LOGIN)).json
        assert (await HttpClient(rig.app, "")("POST", f"{V3}/refresh", {"refresh_token": told["refresh_token"]})).status == 401
        rig.app.owners.forget(f"Bearer {told['access_token']}")
        assert rig.app.owners._told() == []


async def test_what_is_known_outlives_a_restart_without_any_token_on_disk_and_without_the_line(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        told = (await rig.client("POST", f"{V3}/login", LOGIN)).json
        await rig.client("POST", f"{SLIDING}?timeout=0", {})
    file = tmp_path / "proxy.told" / "owners.json"
    assert file.stat().st_mode & 0o077 == 0
    assert not any(secret in file.read_text() for secret in (told["access_token"], told["refresh_token"], '"T"', "Bearer"))
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        assert await rig.app.owners.of(f"Bearer {told['access_token']}") == "@a:box"
        assert rig.app.owners.known("Bearer T") == ""


async def test_the_tokens_that_are_used_stay_and_there_are_not_more_than_the_bound(tmp_path, autojump_clock) -> None:
    for _ in range(2):
        async with rig_in_memory(tmp_path, plugged=False) as rig:
            owners = rig.app.owners
            owners.learn("Bearer T", "@a:box")
            for number in range(MAX_TOKENS):
                owners.learn(f"Bearer {number}", "@x:box")
                assert owners.known("Bearer T") == "@a:box"
            assert owners.known("Bearer 0") is None
            owners.learn("Bearer T", "")
            assert owners.known("Bearer T") == "@a:box", "what is known better stays known"
            owners.learn("Bearer long", "@" + "x" * 300)
            assert owners.known("Bearer long") is None
    told = orjson.loads((tmp_path / "proxy.told" / "owners.json").read_bytes())["told"]
    assert len(told) == MAX_TOKENS


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"box": "other", "told": []}', b"\xff" * 99, b"x" * 5_000_000])
async def test_a_file_that_is_damaged_or_of_another_box_is_as_good_as_none(tmp_path, autojump_clock, caplog, content) -> None:
    (tmp_path / "proxy.told").mkdir()
    for name in ("owners", "filters"):
        (tmp_path / "proxy.told" / f"{name}.json").write_bytes(content)
    with caplog.at_level(logging.WARNING):
        async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
            assert await rig.app.owners.of("Bearer T") == "@a:box"
    assert ("is learnt anew" in caplog.text) is (b"other" not in content)
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        assert rig.app.owners.known("Bearer T") == "@a:box"


@pytest.mark.parametrize("told", [5, {}, [5, None, [], ["x", "@a:box"], ["0" * 64, 5], ["0" * 64, {}, {}], [5, "1", {}], ["x", "1", {}]]])
async def test_what_is_no_entry_is_passed_over(tmp_path, autojump_clock, told) -> None:
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        rig.app.owners.learn("Bearer T", "@a:box")
    for name in ("owners", "filters"):
        file = tmp_path / "proxy.told" / f"{name}.json"
        good = orjson.loads((tmp_path / "proxy.told" / "owners.json").read_bytes())
        file.write_bytes(orjson.dumps(good | {"told": [*told, *good["told"]] if isinstance(told, list) else told}))
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        assert rig.app.owners.known("Bearer T") == ("@a:box" if isinstance(told, list) else None)


async def test_a_disk_that_cannot_be_written_is_said_and_no_more(tmp_path, autojump_clock, caplog) -> None:
    (tmp_path / "proxy.told").write_bytes(b"")
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        assert await rig.app.owners.of("Bearer T") == "@a:box"
        await trio.sleep(1)
        assert "owners.json cannot be written" in caplog.text
        assert await rig.app.owners.of("Bearer T") == "@a:box"


# ---- filters


async def test_a_filter_that_the_box_knows_is_defined_and_read_without_the_line_after_a_restart_too(tmp_path, autojump_clock) -> None:
    wish = {"room": {"timeline": {"limit": 7}}}
    path = f"{V3}/user/@a:box/filter"
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        assert (await rig.client("POST", path, wish)).json == {"filter_id": "1"}
        before = len(rig.box.asked)
        assert (await rig.client("POST", path, wish)).json == {"filter_id": "1"}
        assert len(rig.box.asked) == before
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        assert (await rig.client("POST", path, wish)).json == {"filter_id": "1"}
        assert (await rig.client("GET", f"{path}/1")).json["room"]["timeline"] == {"limit": 7}
        for client, target in (
            (rig.client, f"{V3}/user/@b:box/filter"),
            (rig.client, f"{path}?user_id=@a:box"),
            (HttpClient(rig.app, "U"), path),
            (HttpClient(rig.app, ""), path),
        ):
            assert await client("POST", target, wish, patience=5) is None
            target, _, query = target.partition("?")
            assert await client("GET", f"{target}/1?{query}", patience=5) is None
        assert await rig.client("POST", path, {"room": {}}, patience=5) is None
        assert await rig.client("GET", f"{path}/2", patience=5) is None


async def test_a_token_that_is_not_valid_any_more_defines_no_filter(tmp_path, autojump_clock) -> None:
    path = f"{V3}/user/@a:box/filter"
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        await rig.client("POST", path, {})
        rig.box.users.pop("T")
        await rig.client("GET", f"{V3}/devices")
        assert (await rig.client("POST", path, {})).status == 401


async def test_a_sync_names_the_filter_that_an_earlier_run_defined_and_nobody_is_asked_who_it_is(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        await rig.client("GET", f"{V3}/sync")
        assert (rig.box.count("GET", "whoami"), rig.box.count("POST", "/filter")) == (1, 1)
    async with rig_in_memory(tmp_path, box=rig.box) as rig:
        await rig.client("GET", f"{V3}/sync?since=s0")
        assert "filter=1" in rig.box.asked[-1].target
        assert (rig.box.count("GET", "whoami"), rig.box.count("POST", "/filter")) == (1, 1)


@pytest.mark.parametrize("given", ["", "?filter=1"])
async def test_filters_that_the_box_has_dropped_are_defined_anew(tmp_path, autojump_clock, given) -> None:
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        await rig.client("POST", f"{V3}/user/@a:box/filter", {})
        rig.box.refuses = (400, "M_INVALID_PARAM")
        assert (await rig.client("GET", f"{V3}/sync{given}")).status == 400
        rig.box.refuses = None
        defined = rig.box.count("POST", "/filter")
        await rig.client("POST", f"{V3}/user/@a:box/filter", {})
        assert (await rig.client("GET", f"{V3}/sync{given}")).status == 200
        assert rig.box.count("POST", "/filter") == defined + 1


async def test_a_service_that_speaks_for_many_defines_no_filter_of_its_own_by_that(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        await rig.client("GET", f"{V3}/account/whoami")
        ghost = f"{V3}/user/@ghost:box/filter?user_id=@ghost:box"
        for _ in range(2):
            await rig.client("POST", ghost, {})
        await rig.client("POST", f"{V3}/user/@a:box/filter", {})
        assert rig.box.count("POST", "/filter") == 3


async def test_filters_are_bounded_in_number_and_size(tmp_path, autojump_clock) -> None:
    path = f"{V3}/user/@a:box/filter"
    async with rig_in_memory(tmp_path, box=Doorkeeper()) as rig:
        await rig.up()
        for number in range(MAX_KNOWN + 5):
            rig.app.filters.learn("Bearer T", {"event_fields": [str(number)]}, str(number))
        await rig.client("POST", path, {"event_fields": ["x" * MAX_DEFINITION]})
        await rig.client("GET", f"{V3}/sync?filter={quote(orjson.dumps({'event_fields': ['x' * MAX_DEFINITION]}))}")
        assert rig.box.count("POST", "/filter") == 1, "one that would not be remembered is not defined at each sync"
    told = orjson.loads((tmp_path / "proxy.told" / "filters.json").read_bytes())["told"]
    assert len(told) == MAX_KNOWN
    assert [rig.app.filters.definition("Bearer T", str(number)) is None for number in (4, 5)] == [True, False]
