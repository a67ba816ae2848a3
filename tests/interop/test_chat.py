"""`edgeserver chat` in front of a stock Synapse: it is a client of any Matrix server."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import pytest

from tests.chat.terminal import Terminal
from tests.lab.ca import Authority
from tests.lab.programs import wait_for
from tests.lab.synapse import Synapse, unavailable

V3 = "/_matrix/client/v3"
pytestmark = [pytest.mark.interop, pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))]


@pytest.mark.parametrize("sliding", [True, False], ids=["sliding", "classic"])
def test_rooms_of_a_synapse_are_read_and_written_in(tmp_path: Path, sliding: bool) -> None:
    features = {} if sliding else {"experimental_features": {"msc3575_enabled": False, "simplified_msc3575_enabled": False}}
    with Synapse(tmp_path / "synapse", Authority(tmp_path / "ca"), config=features) as synapse:
        alice, bob = "alice", synapse.register("bob")
        synapse.register(alice)
        (tmp_path / "word").write_text("lab-password\n")

        def ask(method: str, path: str, body: object = None) -> dict[str, object]:
            answer = synapse.request(method, V3 + path, body, bob)
            assert answer.status == 200, answer.body
            return dict(answer.json)

        me = f"@alice:{synapse.server_name}"
        room = quote(str(ask("POST", "/createRoom", {"name": "Harbour", "preset": "private_chat", "invite": [me]})["room_id"]))
        closed = {"name": "Closed", "preset": "private_chat", "invite": [me]}
        closed["initial_state"] = [{"type": "m.room.encryption", "state_key": "", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]
        ask("POST", "/createRoom", closed)

        def say(text: str) -> None:
            ask("PUT", f"/rooms/{room}/send/m.room.message/t{abs(hash(text))}", {"msgtype": "m.text", "body": text})

        def texts() -> list[str]:
            page = ask("GET", f"/rooms/{room}/messages?dir=b&limit=50")["chunk"]
            assert isinstance(page, list)
            return [event["content"]["body"] for event in reversed(page) if event["type"] == "m.room.message"]

        word = ("--user", alice, "--password-file", str(tmp_path / "word"))
        with Terminal("chat", "--server", synapse.base_url, "--state", str(tmp_path / "s"), *word, term="vt100") as terminal:
            terminal.shows("Harbour  (invite from bob")
            terminal.type("/accept Harbour\r")
            terminal.shows("Harbour>")
            terminal.shows("alice joined")
            terminal.type("Hello from a terminal.\r")
            wait_for("the message", lambda: "Hello from a terminal." in texts(), timeout=20)
            say("Hello, terminal.")
            terminal.shows("bob: Hello, terminal.")
            assert sum("alice: Hello from a terminal." in line for line in terminal.picture.lines) == 1
            terminal.type("/members\r")
            terminal.shows("2 in Harbour")
            terminal.type("/rooms\r")
            say("Are you there?")
            terminal.shows("(1 unread)")
            terminal.type("/accept Closed\r")
            terminal.shows("needs a full client")
            terminal.type("/quit\r")
            assert terminal.ended() == 0
        with Terminal("chat", "--plain", "--state", str(tmp_path / "s"), term="vt100") as terminal:
            terminal.shows("* Connected.")
            terminal.shows("Harbour: 1 unread")  # the first classic sync of an earlier start is given from memory, then what came later
            terminal.type("/room Harbour\n")
            terminal.shows("bob: Are you there?")
            terminal.type("/leave\n")
            terminal.shows("* You have left Harbour.")
            terminal.type("/logout\n")
            assert terminal.ended() == 0
