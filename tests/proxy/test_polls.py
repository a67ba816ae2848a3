"""What a client's /sync costs, and what becomes of it when the line or the client is slow."""

from urllib.parse import parse_qsl

import orjson
import trio

from tests.proxy.rig import V3, HttpClient, rig_in_memory, until
from transports.memory import Medium

COUNTS = {"device_one_time_keys_count": {"signed_curve25519": 50}}


def parameters(request) -> dict[str, str]:
    return dict(parse_qsl(request.target.partition("?")[2]))


async def test_an_initial_sync_asks_for_little_and_the_next_one_names_a_filter(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        assert (await rig.client("GET", f"{V3}/sync?timeout=30000&set_presence=online")).json["next_batch"] == "s1"
        rig.box.tell("s2")
        await rig.client("GET", f"{V3}/sync?timeout=30000&since=s1")
        first, second = (parameters(request) for request in rig.box.asked if "/sync" in request.target)
        assert set(first) == {"filter", "timeout"}
        assert second["since"] == "s1"
        assert second["filter"] == first["filter"] == "1"
        defined = next(orjson.loads(request.body) for request in rig.box.asked if request.target.endswith("/filter"))
        assert defined["room"]["timeline"] == {"limit": 5}


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


async def test_a_poll_waits_at_the_box_while_the_client_comes_and_goes_and_costs_nothing(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("GET", f"{V3}/sync")
        await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
        bytes_before = rig.link.stats.bytes_out + rig.link.stats.bytes_in
        for _ in range(10):
            began = trio.current_time()
            answer = await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
            assert answer.json == {"next_batch": "s1", **COUNTS}
            assert 29 < answer.at - began < 31
        assert rig.link.stats.bytes_out + rig.link.stats.bytes_in == bytes_before
        assert rig.box.count("GET", "/sync") == 2
        assert int(parameters(rig.box.asked[-1])["timeout"]) >= 600_000
        async with trio.open_nursery() as nursery:
            answers = []

            async def poll() -> None:
                answers.append(await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000"))

            nursery.start_soon(poll)
            await trio.sleep(5)
            rig.box.tell("s2")
        assert answers[0].json["next_batch"] == "s2"


async def test_news_that_come_between_two_polls_are_there_at_once(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.client("GET", f"{V3}/sync")
        await rig.client("GET", f"{V3}/sync?since=s1&timeout=30000")
        rig.box.tell("s2")
        await trio.sleep(10)
        began = trio.current_time()
        answer = await rig.client("GET", f"{V3}/sync?since=s1&timeout=0")
        assert (answer.json["next_batch"], answer.at) == ("s2", began)
        assert (await rig.client("GET", f"{V3}/sync?since=s1&timeout=0")).json["next_batch"] == "s2"
        assert rig.box.count("GET", "/sync") == 2


async def test_a_newer_sync_of_the_same_device_ends_the_older_poll_at_the_box_and_nobody_elses(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig, trio.open_nursery() as nursery:
        other = HttpClient(rig.app, "U")
        answers = []

        async def poll(client, since: str) -> None:
            answers.append(await client("GET", f"{V3}/sync?since={since}&timeout=30000"))

        nursery.start_soon(poll, other, "s1")
        nursery.start_soon(poll, rig.client, "s1")
        await until(lambda: rig.box.open_polls == 2)
        nursery.start_soon(poll, rig.client, "s0")
        await until(lambda: len(answers) == 2)
        await trio.sleep(5)
        assert sorted(answer.status for answer in answers) == [200, 503]
        assert rig.box.open_polls == 1
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


async def test_sliding_sync_repeats_a_position_until_it_is_answered_and_a_new_one_ends_the_old(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        target = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
        assert await rig.client("POST", f"{target}?since=s1", {"conn_id": "a"}, patience=5) is None
        assert await rig.client("POST", f"{target}?since=s1", {"conn_id": "a"}, patience=5) is None
        assert await rig.client("POST", f"{target}?since=s1", {"conn_id": "b"}, patience=5) is None
        assert rig.box.open_polls == 2
        assert (await rig.client("POST", f"{target}?since=s0", {"conn_id": "a"})).status == 200
        await trio.sleep(5)
        assert rig.box.open_polls == 1
