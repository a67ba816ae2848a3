"""`proxy`, `demo`: programs of their own, started from here. Nothing of them is imported before they are asked for."""

from __future__ import annotations

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
    proxy.add_argument("--state", metavar="DIR", default="proxy-state", help="where it keeps its key and pairing (default: proxy-state)")
    demo = verbs.verb(
        "demo",
        "run three boxes on a simulated radio channel and show what crosses it",
        run_demo,
        ["demo", "demo --radio longfast --quiet"],
        more="--radio SPEED chooses the channel, --loss SHARE how much of it is lost; --quiet leaves single frames out.",
    )
    demo.set_defaults(rest=[])


def run_proxy(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from edgeserver.cli.running import run_until_stopped
    from edgeserver.paired.joining import JoinError
    from edgeserver.paired.state import StateError
    from edgeserver.proxy.program import ProxyOptions, run

    options = ProxyOptions(arguments.link, arguments.listen, arguments.pair, Path(arguments.state))
    run_until_stopped("the proxy", lambda: run(options, say), log_level="warning", expected=(JoinError, StateError))
    say("The proxy has stopped in good order.")
    return 0


def run_demo(arguments: argparse.Namespace) -> int:
    from edgeserver.demo import main

    return main(arguments.rest)
