"""What a client's /sync costs, and what becomes of it when the line or the client is slow."""

from urllib.parse import parse_qsl

import orjson
import trio

from edgeserver.sync.filters import UNBROKEN
from tests.proxy.rig import V3, HttpClient, rig_in_memory, until
from transports.memory import Medium

COUNTS = {"device_one_time_keys_count": {"signed_curve25519": 50}}


def parameters(request) -> dict[str, str]:
    return dict(parse_qsl(request.target.partition("?")[2]))


def news(answer) -> str | None:
    """How far the room has come in an answer of the stand-in."""
    rooms = answer.json.get("rooms", {})
    rooms = rooms.get("join", rooms)
    return rooms["!r:box"]["at"] if rooms else None


async def test_an_initial_sync_asks_for_little_and_the_next_one_names_a_filter(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        assert (await rig.client("GET", f"{V3}/sync?timeout=30000&set_presence=online")).json["next_batch"] == "s1"
        rig.box.tell("s2")
        await rig.client("GET", f"{V3}/sync?timeout=30000&since=s1")
        first, second = (parameters(request) for request in rig.box.asked if "/sync" in request.target)
        assert set(first) == {"filter"}
        assert second["since"] == "s1"
        assert orjson.loads(first["filter"])["room"]["timeline"] == {"limit": 5}
        assert second["filter"] == "1"
        defined = next(orjson.loads(request.body) for request in rig.box.asked if request.target.endswith("/filter"))
        assert defined["room"]["timeline"] == {"limit": 20, UNBROKEN: True}


async def test_a_filter_that_the_client_defines_is_thinned_once_and_named_from_then_on(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        made = await rig.client("POST", f"{V3}/user/@a:box/filter", {"room": {"timeline": {"limit": 20}}})
        assert made.json == {"filter_id": "1"}
        assert orjson.loads(rig.box.asked[0].body)["room"]["state"] == {"lazy_load_members": True}
        await rig.client("GET", f"{V3}/sync?filter=1")
        rig.box.tell("s2")
        await rig.client("GET", f"{V3}/sync?filter=1&since=s1&timeout=30000")
        first, second = (parameters(request) for request in rig.box.asked if "/sync" in request.target)
        assert orjson.loads(first["filter"])["room"]["timeline"] == {"limit": 10}
        assert second["filter"] == "1"
        assert rig.box.count("GET", "whoami") == 0


async def test_a_sync_is_observed_while_the_client_comes_and_goes_and_its_polls_cost_nothing(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("GET", f"{V3}/sync")
        await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
        bytes_before = rig.link.stats.bytes_out + rig.link.stats.bytes_in
        for _ in range(30):
            began = trio.current_time()
            answer = await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
            assert answer.json == {"next_batch": "s1", **COUNTS}
            assert 29 < answer.at - began < 31
        assert rig.link.stats.bytes_out + rig.link.stats.bytes_in == bytes_before
        async with trio.open_nursery() as nursery:
            answers = []

            async def poll() -> None:
                answers.append(await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000"))

            nursery.start_soon(poll)
            await trio.sleep(5)
            rig.box.tell("s2")
        assert (answers[0].json["next_batch"], news(answers[0])) == ("s2", "s2")


async def test_news_that_come_one_after_the_other_are_told_without_a_word_of_the_client_and_each_once(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        since = (await rig.client("GET", f"{V3}/sync")).json["next_batch"]
        await rig.client("GET", f"{V3}/sync?since={since}&timeout=0")
        await trio.sleep(5)
        sent = rig.link.stats.bytes_out
        for number in range(2, 12):
            rig.box.tell(f"s{number}")
            await trio.sleep(5)
        assert rig.link.stats.bytes_out - sent < 10 * 16, "acknowledgements alone"
        heard = []
        while True:
            answer = await rig.client("GET", f"{V3}/sync?since={since}&timeout=1000")
            if news(answer) is None:
                break
            heard.append(news(answer))
            since = answer.json["next_batch"]
        assert heard == [f"s{number}" for number in range(2, 12)]


async def test_news_that_come_between_two_polls_are_there_at_once_and_again_if_the_answer_was_lost(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("GET", f"{V3}/sync")
        await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
        rig.box.tell("s2")
        await trio.sleep(10)
        began = trio.current_time()
        answer = await rig.client("GET", f"{V3}/sync?since=s1&timeout=0")
        assert (answer.json["next_batch"], answer.at) == ("s2", began)
        assert (await rig.client("GET", f"{V3}/sync?since=s1&timeout=0")).json["next_batch"] == "s2"


async def test_counts_of_keys_that_change_while_nothing_else_does_are_told_once_and_then_what_follows(tmp_path, autojump_clock) -> None:
    """The box's answer ends where it starts, so a poll from there is both a repeated one and the next."""
    fewer = {"device_one_time_keys_count": {"signed_curve25519": 49}}
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("GET", f"{V3}/sync")
        await rig.client("GET", f"{V3}/sync?since=s1&timeout=0")
        await trio.sleep(5)
        rig.box.tell("s1", **fewer)
        await trio.sleep(5)
        began = trio.current_time()
        told = await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
        assert (told.json, told.at) == ({"next_batch": "s1", **fewer, "rooms": {"join": {}}}, began)
        again = await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
        assert again.json == {"next_batch": "s1", **fewer}
        assert 29 < again.at - told.at < 31
        rig.box.tell("s2", **fewer)
        assert news(await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")) == "s2"


async def test_an_app_that_has_uploaded_keys_hears_how_many_there_are_now(tmp_path, autojump_clock) -> None:
    """The box says so in its answer to the upload, and nothing by sync; else the app would upload some more after each poll."""
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("GET", f"{V3}/sync")
        await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
        sliding = (await rig.client("POST", SLIDING, {"lists": {}})).json["pos"]
        rig.box.held_keys = 60
        await rig.client("POST", f"{V3}/keys/upload", {"one_time_keys": {}, "fallback_keys": {"signed_curve25519:A": {}}})
        counts = {"device_one_time_keys_count": {"signed_curve25519": 60}, "device_unused_fallback_key_types": ["signed_curve25519"]}
        assert (await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")).json == {"next_batch": "s1", **counts}
        assert (await rig.client("POST", f"{SLIDING}?pos={sliding}&timeout=1000", {"lists": {}})).json["extensions"] == {"e2ee": counts}


async def test_messages_to_the_device_are_acknowledged_by_the_clients_own_next_poll(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("GET", f"{V3}/sync")
        await rig.client("GET", f"{V3}/sync?since=s1&timeout=0")
        await trio.sleep(5)
        rig.box.tell("s2", to_device={"events": [{"type": "m.room_key"}]})
        await trio.sleep(3600)
        assert not any("since=s2" in request.target for request in rig.box.asked), "nobody has said that they have arrived"
        answer = await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
        assert answer.json["to_device"]["events"]
        rig.box.beside = {}
        await rig.client("GET", f"{V3}/sync?since=s2&timeout=30000")
        assert any("since=s2" in request.target for request in rig.box.asked)
        rig.box.tell("s3")
        assert news(await rig.client("GET", f"{V3}/sync?since=s2&timeout=30000")) == "s3"


async def test_a_client_that_stays_away_is_not_polled_for_for_ever_and_goes_on_where_it_was(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("GET", f"{V3}/sync")
        await rig.client("GET", f"{V3}/sync?since=s1&timeout=0")
        await trio.sleep(10)
        assert rig.box.open_polls == 1
        await trio.sleep(700)
        assert rig.box.open_polls == 0
        rig.box.tell("s2")
        assert news(await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")) == "s2"


async def test_a_position_that_the_client_had_before_is_asked_for_anew(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("GET", f"{V3}/sync")
        await rig.client("GET", f"{V3}/sync?since=s1&timeout=0")
        for number in (2, 3):
            rig.box.tell(f"s{number}")
            assert news(await rig.client("GET", f"{V3}/sync?since=s{number - 1}&timeout=30000")) == f"s{number}"
        assert news(await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")) == "s3"


async def test_a_newer_sync_of_the_same_device_ends_the_older_poll_at_the_box_and_nobody_elses(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig, trio.open_nursery() as nursery:
        other = HttpClient(rig.app, "U")
        answers = []

        async def poll(client, since: str) -> None:
            answers.append(await client("GET", f"{V3}/sync?since={since}&timeout=30000"))

        for client in (other, rig.client):
            await poll(client, "s1")
            nursery.start_soon(poll, client, "s1")
        await until(lambda: rig.box.open_polls == 2)
        await poll(rig.client, "s0")
        await trio.sleep(5)
        assert [answer.json["next_batch"] for answer in answers[2:]] == ["s1", "s1"], "what is displaced hears of no news"
        assert rig.box.open_polls == 2
        assert sum("since=s0" in request.target for request in rig.box.asked) == 1
        nursery.cancel_scope.cancel()


async def test_a_client_with_a_line_that_is_down_hears_nothing_new_rather_than_errors(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("GET", f"{V3}/sync")
        rig.cable.unplug()
        await rig.down()
        for _ in range(5):
            answer = await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
            assert answer.json == {"next_batch": "s1", **COUNTS}
        rig.box.tell("s2")
        rig.cable.plug()
        answer = await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
        assert answer.json["next_batch"] == "s2"


async def test_an_initial_sync_that_takes_longer_than_the_clients_patience_comes_all_the_same(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, Medium(300)) as rig:
        tries = 0
        while (answer := await rig.client("GET", f"{V3}/sync", patience=5)) is None:
            tries += 1
        assert answer.json["next_batch"] == "s1"
        assert tries > 1
        assert rig.box.count("GET", "/sync") == 1


async def test_over_a_fat_line_a_sync_goes_as_the_client_says_it(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, Medium(1_000_000)) as rig:
        await rig.up()
        target = f"{V3}/sync?filter=%7B%7D&set_presence=online&timeout=5"
        await rig.client("GET", target)
        assert [request.target for request in rig.box.asked] == [target]


SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


async def test_sliding_syncs_are_observed_each_connection_on_its_own(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        for connection in ("a", "b"):
            assert news(await rig.client("POST", f"{SLIDING}?timeout=30000", {"conn_id": connection})) == "s1"
        await until(lambda: rig.box.open_polls == 2)
        asked = len(rig.box.asked)
        for _ in range(20):
            answer = await rig.client("POST", f"{SLIDING}?pos=s1&timeout=30000", {"conn_id": "a"})
            assert answer.json == {"pos": "s1", "lists": {"all": {"count": 1}}, "rooms": {}, "extensions": {"e2ee": COUNTS}}
        assert all(request.header("observe") is None for request in rig.box.asked[asked:])
        rig.box.tell("s2")
        for connection in ("a", "b"):
            assert news(await rig.client("POST", f"{SLIDING}?pos=s1&timeout=30000", {"conn_id": connection})) == "s2"


async def test_a_sliding_sync_that_asks_for_more_takes_the_place_of_the_one_before(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        assert news(await rig.client("POST", f"{SLIDING}?timeout=30000", {"lists": {"all": {"ranges": [[0, 19]]}}})) == "s1"
        await until(lambda: rig.box.open_polls == 1)
        more = {"lists": {"all": {"ranges": [[0, 99]]}}}
        assert news(await rig.client("POST", f"{SLIDING}?pos=s1&timeout=30000", more)) is None
        assert orjson.loads(rig.box.asked[-1].body) == more
        assert rig.box.open_polls == 1
        rig.box.tell("s2")
        assert news(await rig.client("POST", f"{SLIDING}?pos=s1&timeout=30000", more)) == "s2"


async def test_a_sliding_client_that_begins_anew_is_told_everything_once_more_without_the_box(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        for _ in range(2):
            assert news(await rig.client("POST", f"{SLIDING}?timeout=30000", {})) == "s1"
            assert news(await rig.client("POST", f"{SLIDING}?pos=s1&timeout=1000", {})) is None
        begun = [request for request in rig.box.asked if "pos=" not in request.target and request.method == "POST"]
        assert len(begun) == 1
        for _ in range(2):  # who does not go on from what it was told is told it by the box
            assert news(await rig.client("POST", f"{SLIDING}?timeout=30000", {})) == "s1"
        begun = [request for request in rig.box.asked if "pos=" not in request.target and request.method == "POST"]
        assert len(begun) == 2


async def test_a_sliding_client_acknowledges_what_came_for_its_device_by_the_body_of_its_next_poll(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        body = {"extensions": {"to_device": {"enabled": True}}}
        await rig.client("POST", f"{SLIDING}?timeout=30000", body)
        await rig.client("POST", f"{SLIDING}?pos=s1&timeout=1000", body)
        rig.box.tell("s2", to_device={"next_batch": "7", "events": [{"type": "m.room_key"}]})
        answer = await rig.client("POST", f"{SLIDING}?pos=s1&timeout=30000", body)
        assert answer.json["extensions"]["to_device"]["events"]
        rig.box.beside = {}
        await trio.sleep(300)
        assert rig.box.open_polls == 0
        acknowledging = {"extensions": {"to_device": {"enabled": True, "since": "7"}}}
        await rig.client("POST", f"{SLIDING}?pos=s2&timeout=30000", acknowledging)
        assert orjson.loads(rig.box.asked[-1].body) == acknowledging
        assert rig.box.open_polls == 1


async def test_the_boxs_refusal_reaches_a_watching_client_and_it_may_begin_anew(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("POST", f"{SLIDING}?timeout=30000", {})
        rig.box.refuses = (400, "M_UNKNOWN_POS")
        answer = await rig.client("POST", f"{SLIDING}?pos=s0&timeout=30000", {})
        assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN_POS")
        rig.box.refuses = None
        assert news(await rig.client("POST", f"{SLIDING}?timeout=30000", {})) == "s1"


async def test_a_line_that_breaks_under_an_observation_brings_what_has_happened_meanwhile(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("POST", f"{SLIDING}?timeout=30000", {})
        for number in range(2, 8):
            rig.cable.unplug()
            await rig.down()
            rig.box.tell(f"s{number}")
            assert news(await rig.client("POST", f"{SLIDING}?pos=s{number - 1}&timeout=30000", {})) is None
            rig.cable.plug()
            with trio.fail_after(300):
                while (answer := await rig.client("POST", f"{SLIDING}?pos=s{number - 1}&timeout=30000", {})) and news(answer) is None:
                    pass
            assert news(answer) == f"s{number}"
