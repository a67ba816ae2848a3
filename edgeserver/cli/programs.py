"""`proxy`, `chat`, `demo`: programs of their own, started from here. Nothing of them is imported before they are asked for."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from edgeserver.cli.console import say

if TYPE_CHECKING:
    import argparse

    from edgeserver.cli.verbs import Verbs


def add(verbs: Verbs) -> None:
    proxy = verbs.verb(
        "proxy",
        "be a homeserver on this machine for Matrix apps, in front of a thin line",
        run_proxy,
        [
            "proxy --link serial:/dev/ttyUSB0,2400 --pair K7QM-2XPA",
            "proxy --link udp:box.example.org:7710 --listen 127.0.0.1:8008",
        ],
        more="Apps talk to it as to any homeserver; little of that goes over the line. Pair once, with the code that the box shows.",
    )
    proxy.add_argument("--link", metavar="URI", required=True, help="the line to the box, such as serial:/dev/ttyUSB0,2400")
    proxy.add_argument("--listen", metavar="HOST:PORT", default="127.0.0.1:8008", help="where apps find it (default: 127.0.0.1:8008)")
    proxy.add_argument("--pair", metavar="CODE", help="pair with the box first, by the code or QR text that it shows")
    proxy.add_argument(
        "--state",
        metavar="DIR",
        default="proxy-state",
        help="where it keeps its key, pairing, held messages and media (default: proxy-state)",
    )
    proxy.add_argument(
        "--media",
        choices=("none", "small", "all"),
        default="none",
        help="pictures and files that apps fetch by themselves over a thin line: none, small (what it carries in half a minute) or all",
    )
    chat = verbs.verb(
        "chat",
        "read and write messages in this terminal",
        run_chat,
        [
            "chat --server http://192.168.1.20:8008",
            "chat --link serial:/dev/ttyUSB0,2400 --pair K7QM-2XPA",
            "chat --plain --user alice --password-file word < lines",
        ],
        more="A Matrix client for any server, over HTTP or over a line to a box. The first start asks for user name and password; later "
        "ones need no options. A screen of 80 by 24 is enough, and --plain needs none. Type /help in it. Encrypted rooms need a full "
        "client.",
    )
    chat.add_argument("--server", metavar="URL", default="", help="the server's address, or its name (default: where one was last)")
    chat.add_argument("--link", metavar="URI", default="", help="instead: the line to a box, such as serial:/dev/ttyUSB0,2400")
    chat.add_argument("--pair", metavar="CODE", help="pair with the box first, by the code or QR text that it shows")
    chat.add_argument("--user", metavar="NAME", default="", help="who logs in (default: asks)")
    chat.add_argument("--password-file", metavar="F", help="read the password from this file's first line (default: asks)")
    chat.add_argument("--plain", action="store_true", help="lines in, lines out: for screen readers, scripts and paper terminals")
    chat.add_argument("--state", metavar="DIR", help="where it keeps key, session and unsent messages (default: in $XDG_STATE_HOME)")
    demo = verbs.verb(
        "demo",
        "run three boxes on a simulated radio channel and show what crosses it",
        run_demo,
        ["demo", "demo --radio longfast --quiet"],
        more="--radio SPEED chooses the channel, --loss SHARE how much of it is lost; --quiet leaves single frames out.",
    )
    demo.set_defaults(rest=[])


def run_proxy(arguments: argparse.Namespace) -> int:
    from contextlib import suppress
    from pathlib import Path

    from edgeserver.cli.folder_lock import sole_user_of
    from edgeserver.cli.running import run_until_stopped
    from edgeserver.paired.joining import JoinError
    from edgeserver.paired.state import StateError
    from edgeserver.proxy.media import Policy
    from edgeserver.proxy.program import ProxyOptions, run

    options = ProxyOptions(arguments.link, arguments.listen, arguments.pair, Path(arguments.state), media=Policy(arguments.media))
    with suppress(OSError):  # else the lock says what is wrong
        options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
    with sole_user_of(options.state, "--state"):
        run_until_stopped("the proxy", lambda: run(options, say), log_level="warning", expected=(JoinError, StateError))
    say("The proxy has stopped in good order.")
    return 0


def run_chat(arguments: argparse.Namespace) -> int:
    import os
    from contextlib import suppress
    from pathlib import Path

    from edgeserver.chat import saved
    from edgeserver.chat.program import ChatError, ChatOptions, run
    from edgeserver.chat.server import AddressError
    from edgeserver.chat.terminal import Terminal
    from edgeserver.cli.folder_lock import sole_user_of
    from edgeserver.cli.people import read_password
    from edgeserver.cli.running import run_until_stopped
    from edgeserver.paired.joining import JoinError
    from edgeserver.paired.state import StateError

    folder = saved.default_folder(os.environ) if arguments.state is None else Path(arguments.state)
    password = None if arguments.password_file is None else read_password(arguments.password_file)
    options = ChatOptions(folder, arguments.server, arguments.link, arguments.pair)
    terminal = Terminal(arguments.user, password, plain=arguments.plain)
    expected = (ChatError, saved.SavedError, AddressError, JoinError, StateError)
    with suppress(OSError):  # else the lock says what is wrong
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with sole_user_of(folder, "--state"), terminal.kept():
        program = partial(run, options, say, terminal.ask, terminal.front)
        run_until_stopped("the chat", program, log_level="error", expected=expected)
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    from edgeserver.demo import main

    return main(arguments.rest)
