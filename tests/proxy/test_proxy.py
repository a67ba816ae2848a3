"""An ordinary client behind the proxy, on a line that is slow, goes down and comes back. Time is virtual."""

import trio

from tests.proxy.rig import V3, HttpClient, proxied, rig_in_memory, until
from transports.exchange import Priority
from transports.memory import Medium, MemoryCable

SEND = f"{V3}/rooms/!a/send/m.room.message"
TEXT = {"msgtype": "m.text", "body": "hello"}


async def test_a_request_reaches_the_box_with_its_token_and_its_answer_comes_back_with_cors(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        answer = await rig.client("GET", f"{V3}/account/3pid?x=1", headers={"cookie": "c", "origin": "https://app"})
        assert (answer.status, answer.json) == (200, {"path": f"{V3}/account/3pid?x=1"})
        assert answer.header("access-control-allow-origin") == ["*"]
        (request,) = rig.box.asked
        assert request.headers == (("authorization", "Bearer T"),)
        assert request.priority is Priority.INTERACTIVE


async def test_a_browser_may_ask_and_strangers_paths_are_unrecognised_without_the_line(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        assert (await rig.client("OPTIONS", SEND)).header("access-control-allow-methods")
        answer = await rig.client("GET", "/_matrix/federation/v1/version")
        assert (answer.status, answer.json["errcode"]) == (404, "M_UNRECOGNIZED")
        assert rig.box.asked == []


async def test_discovery_names_the_proxy_itself_and_a_login_does_not_lead_away_from_it(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        found = await rig.client("GET", "/.well-known/matrix/client")
        assert found.json == {"m.homeserver": {"base_url": "http://localhost:8008"}}
        login = await rig.client("POST", f"{V3}/login", {"type": "m.login.password"})
        assert login.json == {"user_id": "@a:box", "access_token": "T", "device_id": "D"}


async def test_messages_wait_for_a_line_that_is_down_and_arrive_in_order_once_it_is_up(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        rig.cable.unplug()
        await rig.down()
        answers = []

        async def send(number: int) -> None:
            answers.append(await rig.client("PUT", f"{SEND}/t{number}", TEXT))

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(send, number)
                await rig.held(number + 1)
            await trio.sleep(1800)
            assert answers == []
            rig.cable.plug()
        assert rig.box.order == [f"t{number}" for number in range(8)]
        assert {answer.status for answer in answers} == {200}
        assert sorted(answer.json["event_id"] for answer in answers) == [f"$event{number}" for number in range(8)]


async def test_a_repeat_joins_the_message_under_way_and_later_gets_the_same_answer(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        rig.cable.unplug()
        await rig.down()
        for _ in range(3):
            assert await rig.client("PUT", f"{SEND}/t", TEXT, patience=60) is None
        await rig.held(1)
        assert rig.app.outbox.held == 1
        rig.cable.plug()
        first = await rig.client("PUT", f"{SEND}/t", TEXT)
        again = await rig.client("PUT", f"{SEND}/t", TEXT)
        assert first.json == again.json == {"event_id": "$event0"}
        assert rig.box.count("PUT", "/send/") == 1


async def test_a_message_is_delivered_although_its_client_has_hung_up(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        rig.cable.unplug()
        await rig.down()
        assert await rig.client("PUT", f"{SEND}/t", TEXT, patience=10) is None
        await trio.sleep(3600)
        rig.cable.plug()
        await rig.up()
        await trio.sleep(60)
        assert rig.box.order == ["t"]
        assert rig.app.outbox.held == 0


async def test_two_people_may_use_the_same_transaction_id(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        one = await rig.client("PUT", f"{SEND}/t", TEXT)
        other = await HttpClient(rig.app, "U")("PUT", f"{SEND}/t", TEXT)
        assert one.json != other.json


async def test_a_message_that_the_box_puts_off_is_not_overtaken(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        rig.box.rate_limits = 2
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.client, "PUT", f"{SEND}/t0", TEXT)
            await rig.held(1)
            nursery.start_soon(rig.client, "PUT", f"{SEND}/t1", TEXT)
        assert rig.box.order == ["t0", "t1"]


async def test_a_box_that_loses_power_while_it_works_is_asked_again_for_what_may_be_repeated(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        rig.box.hangs = trio.Event()
        answers = {}

        async def ask(method: str, target: str, body: object = None) -> None:
            answers[method] = await rig.client(method, target, body)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "GET", f"{V3}/slow")
            nursery.start_soon(ask, "POST", f"{V3}/createRoom", {})
            await until(lambda: len(rig.box.asked) == 2)
            rig.cable.unplug()
            rig.far.stop()
            await trio.sleep(20)
            rig.box.hangs.set()
            rig.far.start()
            rig.cable.plug()
        assert answers["GET"].status == 200
        assert answers["POST"].status == 504
        assert answers["POST"].json["errcode"] == "M_UNKNOWN"
        assert "not known whether" in answers["POST"].json["error"]
        assert rig.box.count("POST", "createRoom") == 1


async def test_what_was_surely_not_delivered_is_sent_even_if_it_must_not_be_repeated(tmp_path, autojump_clock) -> None:
    cable = MemoryCable(Medium(9600), seed=1)
    async with proxied(tmp_path, cable.a, cable.b) as rig, trio.open_nursery() as nursery:
        answers = []

        async def ask() -> None:
            answers.append(await rig.client("POST", f"{V3}/createRoom", {}))

        nursery.start_soon(ask)
        await trio.sleep(600)
        rig.far.start()
        await until(lambda: bool(answers))
        assert answers[0].status == 200


async def test_an_answer_that_came_too_late_is_there_when_the_client_asks_again(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        rig.box.hangs = trio.Event()
        for method, target in (("GET", f"{V3}/slow"), ("POST", f"{V3}/createRoom")):
            assert await rig.client(method, target, {"a": 1}, patience=10) is None
        rig.box.hangs.set()
        await trio.sleep(20)
        for method, target in (("GET", f"{V3}/slow"), ("POST", f"{V3}/createRoom")):
            assert (await rig.client(method, target, {"a": 1})).status == 200
        assert len(rig.box.asked) == 2
        assert (await rig.client("POST", f"{V3}/createRoom", {"a": 1})).status == 200
        assert len(rig.box.asked) == 3


async def test_two_clients_that_post_the_same_at_the_same_time_post_twice(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(rig.client, "POST", f"{V3}/createRoom", {})
        assert rig.box.count("POST", "createRoom") == 2


async def test_typing_and_presence_never_go_over_a_thin_line(tmp_path, autojump_clock) -> None:
    for medium, count in ((Medium(9600), 0), (Medium(1_000_000), 2)):
        async with rig_in_memory(tmp_path, medium) as rig:
            await rig.up()
            for target in (f"{V3}/rooms/!a/typing/@a:box", f"{V3}/presence/@a:box/status"):
                assert (await rig.client("PUT", target, {"typing": True})).status == 200
            assert len(rig.box.asked) == count


async def test_versions_are_asked_for_once_an_hour_and_answered_while_the_line_is_down(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        for _ in range(3):
            answer = await rig.client("GET", "/_matrix/client/versions")
            assert answer.json == {"versions": ["v1.11"]}
        assert len(rig.box.asked) == 1
        rig.cable.unplug()
        await trio.sleep(4000)
        asked_at = trio.current_time()
        assert (await rig.client("GET", "/_matrix/client/versions")).at == asked_at
        rig.cable.plug()
        await rig.up()
        await trio.sleep(10)
        assert len(rig.box.asked) == 2
    async with rig_in_memory(tmp_path, plugged=False) as rig:
        assert (await HttpClient(rig.app, "")("GET", "/_matrix/client/versions")).json == {"versions": ["v1.11"]}


async def test_uploads_that_would_block_the_line_are_refused_with_the_reason(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path, Medium(2400)) as rig:
        await rig.up()
        refused = await rig.client("POST", "/_matrix/media/v3/upload", b"x" * 144_001, headers={"content-type": "image/png"})
        assert (refused.status, refused.json["errcode"]) == (413, "M_TOO_LARGE")
        assert "no more than 144,000" in refused.json["error"]
        limit = await rig.client("GET", "/_matrix/client/v1/media/config")
        assert limit.json == {"m.upload.size": 144_000}
        huge = await rig.client("PUT", f"{V3}/room_keys/keys", b"x" * 1_200_000)
        assert huge.status == 413
        assert (await rig.client("POST", "/_matrix/media/v3/upload", b"small", headers={"content-type": "image/png"})).status == 200
        assert rig.box.asked[-1].header("content-type") == "image/png"
        assert rig.box.asked[-1].priority is Priority.MEDIA


async def test_what_clients_fetch_unasked_is_not_fetched_over_a_thin_line(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        for what in ("thumbnail/box/a?width=32&height=32", "download/box/a"):
            refused = await rig.client("GET", f"/_matrix/client/v1/media/{what}")
            assert (refused.status, refused.json["errcode"]) == (504, "M_NOT_YET_UPLOADED")
            assert refused.header("cache-control") == ["no-store"]
        assert (await rig.client("GET", "/_matrix/client/v1/media/preview_url?url=x")).json == {}
        assert rig.box.asked == []


async def test_a_token_in_the_query_travels_as_a_header(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await HttpClient(rig.app, "")("GET", f"{V3}/pushrules/?access_token=QT&a=b")
        (request,) = rig.box.asked
        assert (request.target, request.header("authorization")) == (f"{V3}/pushrules/?a=b", "Bearer QT")


async def test_the_front_page_tells_how_the_line_stands(tmp_path, autojump_clock) -> None:
    async with rig_in_memory(tmp_path) as rig:
        await rig.up()
        page = (await rig.client("GET", "/")).json
        assert page["line"] == "The line to box.example is up at 9600 bit/s."
        rig.cable.unplug()
        await rig.down()
        page = (await rig.client("GET", "/")).json
        assert (page["up"], page["held_messages"]) == (False, 0)
        assert page["line"].endswith("Messages are held until it is back.")
