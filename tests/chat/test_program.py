"""The real program in a real pseudo terminal, in front of a real box: what a person sees and types."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from edgeserver.api.control_socket import SOCKET
from tests.chat.terminal import Terminal
from tests.lab.box import Box
from tests.lab.programs import Program, python_module, run, wait_for
from tests.lab.ptyline import PtyLine
from tests.lab.synapse import free_port

V3 = "/_matrix/client/v3"
WORD = "correct horse battery"


class House:
    """A box with alice and bob; bob has an app."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = f'[server]\nname = "a.test"\ndata = "{folder / "data"}"\n[http]\nclient = ["127.0.0.1:{self.port}"]\nfederation = []\n'
        self.box = Box(folder, config + "[discovery]\nmdns = false\n" + more, self.url)
        self.token = ""

    def open(self) -> None:
        (self.folder / "word").write_text(WORD + "\n")
        self.box.start()
        wait_for("the control socket", (self.folder / "data" / SOCKET).is_socket, timeout=20)  # it opens after HTTP
        for name in ("alice", "bob"):
            words = ("person", "add", name, "--password-file", str(self.folder / "word"), "--config", str(self.box.config_file))
            run(*python_module("edgeserver", *words), cwd=Path(__file__).parents[2])
        login = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "bob"}, "password": WORD}
        self.token = self.ask("POST", "/login", login)["access_token"]

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """As bob."""
        answer = self.box.request(method, V3 + path, body, self.token or None)
        assert answer.status == 200, answer.body
        return answer.json

    def room(self, name: str) -> str:
        made = self.ask("POST", "/createRoom", {"name": name, "preset": "private_chat", "invite": ["@alice:a.test"]})
        return str(made["room_id"])

    def say(self, room_id: str, text: str) -> None:
        transaction = f"t{abs(hash(text))}"
        self.ask("PUT", f"/rooms/{quote(room_id)}/send/m.room.message/{transaction}", {"msgtype": "m.text", "body": text})

    def texts(self, room_id: str) -> list[str]:
        page = self.ask("GET", f"/rooms/{quote(room_id)}/messages?dir=b&limit=100")
        return [event["content"]["body"] for event in reversed(page["chunk"]) if event["type"] == "m.room.message"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    made = House(tmp_path_factory.mktemp("house"))
    try:
        made.open()
        yield made
    finally:
        made.box.stop()


def test_a_person_at_a_screen_logs_in_accepts_an_invite_reads_and_writes(house: House, tmp_path: Path) -> None:
    room_id = house.room("Harbour")
    house.say(room_id, "Storm from noon.")
    state = tmp_path / "state"
    with Terminal("chat", "--server", house.url, "--state", str(state), term="vt100") as terminal:
        before = terminal.settings()
        terminal.shows("User name:")
        terminal.type("alice\n")
        terminal.shows("Password of alice:")
        terminal.type(WORD + "\n")
        terminal.shows("(invite from bob: /accept 1 or /reject 1)")
        assert WORD.encode() not in terminal.sent
        terminal.type("/accept\r")
        terminal.shows("bob: Storm from noon.")
        terminal.shows("Harbour>")
        terminal.type("Seen, thank you.\r")
        terminal.shows("alice: Seen, thank you.")
        wait_for("the message", lambda: "Seen, thank you." in house.texts(room_id), timeout=20)
        house.say(room_id, "\x1b]0;owned\x07\x1b[2JGood \u202egnikool.")
        terminal.shows("Good gnikool.")
        for hostile in (b"owned\x07", b"\x1b]0;", "\u202e".encode()):
            assert hostile not in terminal.sent
        assert any("Storm from noon." in line for line in terminal.picture.lines)

        terminal.type("\x1b[200~Two lines,\npasted.\x1b[201~\r")
        terminal.shows("| pasted.")
        wait_for("the message", lambda: "Two lines,\npasted." in house.texts(room_id), timeout=20)
        terminal.type("/help\r")
        terminal.shows("/quit")
        terminal.type("\r")
        terminal.shows("Storm from noon.")
        terminal.type("/nonsense\r")
        terminal.shows("There is no /nonsense")
        terminal.type("\x15/quit\r")
        assert terminal.ended() == 0
        assert b"Good-bye." in terminal.sent
        assert terminal.settings() == before
    assert stat.S_IMODE((state / "session.json").stat().st_mode) == 0o600
    with Terminal("chat", "--state", str(state), term="vt100") as terminal:  # the second time nothing is asked
        terminal.shows("Harbour")
        terminal.terminate()
        assert terminal.ended() == 0
        assert terminal.settings() == before


def test_a_session_that_is_ended_elsewhere_ends_the_screen_and_leaves_the_terminal_as_it_was(house: House, tmp_path: Path) -> None:
    word = ("--user", "alice", "--password-file", str(house.folder / "word"))
    with Terminal("chat", "--server", house.url, "--state", str(tmp_path), *word, term="vt100") as terminal:
        before = terminal.settings()
        terminal.shows("Connected.")
        token = orjson.loads((tmp_path / "session.json").read_bytes())["token"]
        assert house.box.request("POST", f"{V3}/logout", {}, token).status == 200
        assert terminal.ended() == 1
        assert b"The server has ended this session." in terminal.sent
        assert terminal.settings() == before
    assert orjson.loads((tmp_path / "session.json").read_bytes())["token"] == ""


def test_a_person_with_a_paper_terminal_reads_and_writes_lines(house: House, tmp_path: Path) -> None:
    room_id = house.room("Paper")
    word = ("--user", "alice", "--password-file", str(house.folder / "word"))
    with Terminal("chat", "--server", house.url, "--state", str(tmp_path), *word, term="dumb") as terminal:
        terminal.shows("* Connected.")
        terminal.type("/accept Paper\n")
        terminal.shows(", Paper:")
        terminal.type("Is this thing on?\n")
        terminal.shows("alice: Is this thing on?")
        house.say(room_id, "Yes.")
        terminal.shows("bob: Yes.")
        terminal.type("/quit\n")
        assert terminal.ended() == 0
        assert b"\x1b" not in terminal.sent
    assert house.texts(room_id) == ["Is this thing on?", "Yes."]


def test_a_program_that_is_killed_sends_what_it_held_once_and_a_box_that_was_away_has_it(house: House, tmp_path: Path) -> None:
    room_id = house.room("Ferry")
    word = ("--user", "alice", "--password-file", str(house.folder / "word"))
    with Terminal("chat", "--plain", "--server", house.url, "--state", str(tmp_path), *word, term="vt100") as terminal:
        terminal.shows("* Connected.")
        terminal.type("/accept Ferry\n")
        terminal.shows(", Ferry:")
        house.box.kill()
        terminal.shows("* The server cannot be reached; it is tried again.")
        terminal.type("We are late.\n")
        terminal.shows("1 message waits.")
        terminal.kill()
    assert [message["text"] for message in orjson.loads((tmp_path / "outbox.json").read_bytes())["messages"]] == ["We are late."]
    house.box.start()
    assert house.texts(room_id) == []
    for _ in range(2):
        with Terminal("chat", "--plain", "--state", str(tmp_path), term="vt100") as terminal:
            terminal.shows("* Connected.")
            wait_for("the message", lambda: house.texts(room_id) == ["We are late."], timeout=20)
            terminal.type("/waiting\n")
            terminal.shows("Nothing waits.")
            terminal.type("\x04")
            assert terminal.ended() == 0
    assert house.texts(room_id) == ["We are late."]


@pytest.mark.real_time
def test_on_a_slow_terminal_a_full_page_begins_anew_and_little_is_written_twice(house: House, tmp_path: Path) -> None:
    room_id = house.room("Slow")
    word = ("--user", "alice", "--password-file", str(house.folder / "word"))
    costs = {}
    for baud in (2400, 38400):
        with Terminal("chat", "--server", house.url, "--state", str(tmp_path), *word, term="vt100", baud=baud) as terminal:
            terminal.shows("Slow")
            terminal.type("/accept Slow\r" if baud == 2400 else "/room Slow\r")
            terminal.shows("Slow>")
            terminal.shows("alice joined" if baud == 2400 else "2400 29.")
            before = len(terminal.sent)
            for number in range(30):
                house.say(room_id, f"A message of some forty characters, {baud} {number}.")
                terminal.shows(f"{baud} {number}.")
            costs[baud] = len(terminal.sent) - before
            terminal.type("\x1b[5~")  # page up, and back by writing
            terminal.shows(f"{baud} 2.")
            assert not any(f"{baud} 29." in line for line in terminal.picture.lines)
            terminal.type("/rooms\r")
            terminal.shows("Rooms")
    assert costs[2400] < 30 * 200
    assert costs[2400] < costs[38400] / 2


def test_a_script_writes_and_ends(house: House, tmp_path: Path) -> None:
    room_id = house.room("Weather")
    word = ("--user", "alice", "--password-file", str(house.folder / "word"))
    command = python_module("edgeserver", "chat", "--server", house.url, "--state", str(tmp_path), *word)
    said = run(*command, input_text="/accept Weather\n12 degrees\n", cwd=Path(__file__).parents[2])
    assert "alice: 12 degrees" in said
    assert house.texts(room_id) == ["12 degrees"]
    refused = run(*command[:4], "--state", str(tmp_path), input_text="/join #nowhere\n", cwd=Path(__file__).parents[2], check=False)
    assert "* No: " in refused
    assert "Not everything was done; the lines above say what was not." in refused
    again = run(*command[:4], "--state", str(tmp_path), input_text="/logout\n", cwd=Path(__file__).parents[2])
    assert "Good-bye." in again
    assert not (tmp_path / "session.json").exists()


@pytest.mark.real_time
def test_a_person_with_only_a_serial_cable_pairs_by_code_and_talks(tmp_path: Path) -> None:
    with PtyLine(tmp_path, 2400) as cable:
        house = House(tmp_path / "house", f'[[links]]\nname = "cable"\nuri = "serial:{cable.b},2400"\n')
        pairing = Program(
            python_module("edgeserver", "pair", "--json", "--config", str(house.box.config_file)), log=tmp_path / "pair.log", piped=True
        )
        try:
            house.open()
            room_id = house.room("Harbour")
            with pairing:
                code = orjson.loads(pairing.stdout.readline())["code"]
                link = ("--link", f"serial:{cable.a},2400", "--state", str(tmp_path / "state"))
                with Terminal("chat", *link, "--pair", code, term="vt100") as terminal:
                    terminal.shows("Paired with a.test. From now on start the chat without --pair.", 60)
                    terminal.shows("User name:")
                    terminal.type("alice\n")
                    terminal.shows("Password of alice:")
                    terminal.type(WORD + "\n")
                    terminal.shows("(invite from bob: /accept 1 or /reject 1)", 60)
                    terminal.type("/accept\r")
                    terminal.shows("Harbour>", 60)
                    terminal.type("Hello over the cable.\r")
                    wait_for("the message", lambda: house.texts(room_id) == ["Hello over the cable."], timeout=60)
                    house.say(room_id, "Hello.")
                    terminal.shows("bob: Hello.", 60)
                    cable.cut()
                    terminal.type("And now?\r")
                    terminal.shows("And now? [waiting]")
                    terminal.kill()
            cable.restore()
            with Terminal("chat", "--plain", "--state", str(tmp_path / "state"), term="vt100") as terminal:
                wait_for("the message", lambda: house.texts(room_id)[-1] == "And now?", timeout=100)
                terminal.type("/quit\n")
                assert terminal.ended() == 0
            assert house.texts(room_id).count("And now?") == 1
            cable.assert_honest()
        finally:
            house.box.stop()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "Say where the server is: --server"),
        (["--server", "ftp://x"], "'ftp://x' is no address of a server"),
        (["--server", "http://127.0.0.1:9"], "There is nobody here to ask: name --user and --password-file."),
        (["--server", "http://127.0.0.1:9", "--user", "a", "--password-file", "word"], "http://127.0.0.1:9 cannot be reached: "),
        (["--link", "pigeon:1"], "'pigeon:1' is no line that this release knows"),
        (["--link", "udp:127.0.0.1:9"], "This chat is not paired with a box yet."),
        (["--link", "udp:127.0.0.1:9", "--server", "http://127.0.0.1:9"], "Name --server or --link, not both."),
        (["--server", "http://127.0.0.1:9", "--pair", "K7QM-2XPA"], "--pair belongs to --link."),
    ],
)
def test_a_program_that_cannot_run_says_why_in_a_sentence(tmp_path: Path, words: list[str], told: str) -> None:
    (tmp_path / "word").write_text(WORD)
    words = [str(tmp_path / "word") if one == "word" else one for one in words]
    command = python_module("edgeserver", "chat", "--state", str(tmp_path / "state"), *words)
    said = run(*command, check=False, cwd=Path(__file__).parents[2])
    assert told in said
    assert "Traceback" not in said
