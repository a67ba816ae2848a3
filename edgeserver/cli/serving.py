"""`serve`: runs the box until it is told to stop (Ctrl-C, SIGTERM), and says how to reach it."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from edgeserver.cli.configured import configuration
from edgeserver.cli.console import say

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from edgeserver.app.box import Ready
    from edgeserver.cli.verbs import Verbs

_SIOCGIFADDR = 0x8915


def add(verbs: Verbs) -> None:
    verbs.verb(
        "serve",
        "run the box until Ctrl-C or SIGTERM",
        serve,
        ["serve", "serve --config /etc/edgeserver/edgeserver.toml", "serve --data /srv/edgeserver"],
        more="Without a configuration it names itself after its own key, keeps everything in ./data and serves clients on port 8008.",
        config=True,
    )


def serve(arguments: argparse.Namespace) -> int:
    from edgeserver.cli.folder_lock import sole_user_of
    from edgeserver.cli.running import run_until_stopped

    config = configuration(arguments)

    async def program() -> None:
        from edgeserver.app import box

        def on_ready(ready: Ready) -> None:
            say(greeting(ready, list(lan_addresses())))

        await box.serve(config, on_ready=on_ready)

    with sole_user_of(config.data):
        run_until_stopped("the box", program, log_level=config.server.log_level)
    say("The box has stopped in good order.")
    return 0


# What is said once the box runs


def greeting(ready: Ready, addresses: Sequence[str]) -> str:
    """Where phones reach the box, what its name means, the first account, and what to do next."""
    parts = [f"This box is {ready.server_name}", f"  {_about_name(ready.server_name)}"]
    urls = reachable(ready.client_urls, addresses)
    if urls:
        parts += ["", "Phones and computers on this network use it at", *(f"  {url}" for url in urls)]
    if ready.owner is not None:
        user_id, password = ready.owner
        parts += ["", "The first account has been made. Its password is shown only now:"]
        parts += [f"  user      {user_id}", f"  password  {password}"]
    parts += ["", _next(ready), "Ctrl-C stops the box."]
    return "\n".join(parts)


def _about_name(server_name: str) -> str:
    text = "Names are permanent: every account, room and message carries this one."
    if server_name.endswith(".mesh"):
        text += (
            "\n  A .mesh name can never be reached from the internet, only over lines and local networks."
            "\n  For the internet, set a name or a gateway's suffix (edgeserver quickstart) and begin with an empty data folder."
        )
    return text


def _next(ready: Ready) -> str:
    if ready.owner is not None:
        return "Next: log in with that account in a Matrix app, and add others with: edgeserver person add NAME"
    return "Next: edgeserver person list shows the accounts, edgeserver peers the other boxes."


def reachable(urls: Sequence[str], addresses: Sequence[str]) -> list[str]:
    """The URLs with this machine's own addresses where a listener takes any."""
    found: list[str] = []
    for url in urls:
        parts = urlsplit(url)
        hosts = list(addresses) if parts.hostname in ("0.0.0.0", "::") else []
        found += [f"{parts.scheme}://{host}:{parts.port}" for host in hosts] or [url]
    return list(dict.fromkeys(found))


def lan_addresses() -> Iterator[str]:
    """This machine's IPv4 addresses, without loopback; the one towards the default route first."""
    seen: set[str] = {"127.0.0.1"}
    for address in (_towards_default_route(), *_of_interfaces()):
        if address is not None and address not in seen:
            seen.add(address)
            yield address


def _towards_default_route() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1: connecting a datagram socket sends nothing
        except OSError:
            return None
        return str(probe.getsockname()[0])


def _of_interfaces() -> Iterator[str]:
    if sys.platform != "linux":
        return
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, name.encode()[:15].ljust(256, b"\0"))
            except OSError:
                continue  # an interface without an IPv4 address
            address = socket.inet_ntoa(answer[20:24])
            if not address.startswith("127."):
                yield address
