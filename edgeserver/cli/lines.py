"""`status`, `peers`, `link`, `pair`, `unpair`: the running box, its lines, and who is at their other ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from edgeserver.cli.configured import configuration
from edgeserver.cli.console import CommandError, day_of, one_line, plural, say, say_json, table
from edgeserver.cli.verbs import Verbs

if TYPE_CHECKING:
    import argparse

    from edgeserver.cli.control_client import ControlClient

PAIR_TIMEOUT = 150.0
TEST_TIMEOUT = 900.0
POLL_SECONDS = 1.0


def add(verbs: Verbs) -> None:
    verbs.verb("status", "show the running box", show_status, ["status", "status --json"], config=True, json=True)
    verbs.verb(
        "peers",
        "show paired boxes and devices, and boxes found on the local network",
        show_peers,
        ["peers", "peers --json"],
        config=True,
        json=True,
    )
    link = verbs.verb("link", "show and test the lines", None, ["link status", "link test ridge"])
    below = Verbs(link)
    below.verb("status", "show every line and its counters", show_links, ["link status", "link status --json"], config=True, json=True)
    test = below.verb(
        "test",
        "measure round trip and throughput of a line",
        test_link,
        ["link test ridge", "link test serial:/dev/ttyUSB0,2400"],
        more="Takes about a quarter of a minute on a slow line; people's messages go first meanwhile.",
        config=True,
        json=True,
    )
    test.add_argument("name", metavar="NAME", help="the line's name, as link status shows it")
    _add_pairing(verbs)


def _add_pairing(verbs: Verbs) -> None:
    pair = verbs.verb(
        "pair",
        "pair with the box or device at the other end of a line",
        run_pair,
        ["pair", "pair --front", "pair K7QM-2XPA", "pair K7QM-2XPA --link ridge --gateway"],
        more="One end runs pair and shows a code; the other end runs pair with that code. Each then knows the other's key for good.",
        config=True,
        json=True,
    )
    pair.add_argument("code", metavar="CODE", nargs="?", help="what the other end shows: its code, or the text of its QR code")
    pair.add_argument("--link", metavar="NAME", help="with CODE: the line to pair over (default: the only one)")
    pair.add_argument("--gateway", action="store_true", help="with CODE: the other end is our gateway to the internet")
    pair.add_argument("--front", action="store_true", help="without CODE: be the gateway of the box that pairs")
    unpair = verbs.verb("unpair", "end a pairing", run_unpair, ["unpair ridge.example.org"], config=True, json=True)
    unpair.add_argument("name", metavar="NAME", help="the peer's name, as peers shows it")


def _box(arguments: argparse.Namespace) -> ControlClient:
    from edgeserver.cli.control_client import client_of

    return client_of(configuration(arguments).data)


# Looking


def show_status(arguments: argparse.Namespace) -> int:
    status = _box(arguments).call("GET", "status")
    if arguments.json:
        say_json(status)
        return 0
    uplink = {True: "there", False: "away", None: "never used"}[status["uplink"]]
    waiting = ", ".join(one_line(name) for name in status["waiting"]) or "nobody"
    rows = [
        ("name", status["server_name"]),
        ("release", status["version"]),
        ("clients", ", ".join(status["client_urls"]) or "no listener"),
        ("federation", ", ".join(status["federation_urls"]) or "no listener"),
        ("clock", "trusted" if status["clock_trusted"] else "nobody vouches for it yet"),
        ("internet", uplink),
        ("still to be told", waiting),
    ]
    say("\n".join(f"{title:18}{text}" for title, text in rows))
    say(f"The box has run for {_duration(max(0.0, time.time() - status['started_at'] / 1000))}.")
    return 0


def show_peers(arguments: argparse.Namespace) -> int:
    answer = _box(arguments).call("GET", "peers")
    if arguments.json:
        say_json(answer)
        return 0
    paired, found = answer["paired"], answer["found"]
    if paired:
        rows = [(one["name"], "box" if one["is_box"] else "device", _way(one), _roles(one), day_of(one["paired_at"])) for one in paired]
        say(table(("paired", "", "line", "", "since"), rows))
    if found:
        say(table(("found on this network", "addresses"), [(one["name"], ", ".join(one["addresses"])) for one in found]))
    up = sum(1 for one in paired if one["up_on"])
    say(f"{len(paired)} paired, {up} of them connected; {plural(len(found), 'box', 'boxes')} found on the local network.")
    if not paired:
        say("Next: pair the box at the other end of a line with: edgeserver pair")
    return 0


def _way(peer: dict[str, Any]) -> str:
    return "up on " + ", ".join(peer["up_on"]) if peer["up_on"] else "down"


def _roles(peer: dict[str, Any]) -> str:
    if peer["gateway"]:
        return "our gateway"
    return "we are its gateway" if peer["fronted"] else ""


def show_links(arguments: argparse.Namespace) -> int:
    found = _box(arguments).call("GET", "links")
    links, for_apps = found["links"], found["client_lines"]
    if arguments.json:
        say_json(found)
        return 0
    if for_apps:
        rows = [(one["name"], _line_state(one), *_counters(one["stats"])) for one in for_apps]
        say(table(("line for apps", "", "in", "out", "round trip", "sent again", "bad frames"), rows))
    if not links:
        say("This box has no line. Add one under [[links]] in the configuration and start it again.")
        return 0
    rows = [(one["name"], _line_state(one), *_counters(one["stats"])) for one in links]
    say(table(("line", "", "in", "out", "round trip", "sent again", "bad frames"), rows))
    up = sum(1 for one in links if one["peers"])
    say(f"{plural(len(links), 'line')}, {up} up. Measure one with: edgeserver link test NAME")
    return 0


def _line_state(line: dict[str, Any]) -> str:
    if line["trouble"]:
        return f"not open: {line['trouble']}"
    if not line["peers"]:
        return "nobody answers"
    up_for = (line["stats"] or {}).get("up_for")
    return "up with " + ", ".join(line["peers"]) + ("" if up_for is None else f" for {_duration(up_for)}")


def _counters(stats: dict[str, Any] | None) -> tuple[str, ...]:
    if stats is None:
        return ("", "", "", "", "")
    round_trip = "" if stats["rtt"] is None else f"{stats['rtt']:.2f} s"
    bad = stats["crc_errors"] + stats["refused_frames"]
    return (_bytes(stats["bytes_in"]), _bytes(stats["bytes_out"]), round_trip, str(stats["retransmissions"]), str(bad))


def test_link(arguments: argparse.Namespace) -> int:
    box = _box(arguments)
    if not arguments.json:
        say(f"Measuring {one_line(arguments.name)} …")
    found = box.call("POST", ("links", arguments.name, "test"), {}, timeout=TEST_TIMEOUT)
    if arguments.json:
        say_json(found)
        return 0
    nominal = "" if found["bit_rate"] is None else f" (the line's own rate is {_rate(found['bit_rate'])})"
    say(f"Round trip to {one_line(found['peer'] or 'the other end')}: {found['round_trip']:.3f} s.")
    if found["down"] is None or found["up"] is None:
        say("The other end does not serve the throughput test; it is of an older release.")
    else:
        say(f"Throughput: {_rate(found['down'])} towards us, {_rate(found['up'])} from us{nominal}.")
    return 0


def _rate(bits: float) -> str:
    if bits >= 1e6:
        return f"{bits / 1e6:.1f} Mbit/s"
    return f"{bits / 1e3:.1f} kbit/s" if bits >= 1e4 else f"{bits:.0f} bit/s"


def _bytes(count: int) -> str:
    if count >= 1_000_000:
        return f"{count / 1e6:.1f} MB"
    return f"{count / 1e3:.1f} kB" if count >= 10_000 else f"{count} B"


def _duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    if minutes < 1:
        return plural(int(seconds), "second")
    if minutes < 120:
        return plural(minutes, "minute")
    return f"{minutes // 60} hours" if minutes < 48 * 60 else f"{minutes // 1440} days"


# Pairing


def run_pair(arguments: argparse.Namespace) -> int:
    if arguments.code is None:
        if arguments.link or arguments.gateway:
            raise CommandError("--link and --gateway belong to the end that has a CODE; this end shows one.", status=2)
        return _host(arguments)
    if arguments.front:
        raise CommandError("--front belongs to the end that shows the code, without CODE.", status=2)
    return _guest(arguments)


def _host(arguments: argparse.Namespace) -> int:
    box = _box(arguments)
    offer = box.call("POST", "pairing", {"front": arguments.front})
    try:
        _show_offer(offer, as_json=arguments.json)
        paired = _wait_for_guest(box)
    except KeyboardInterrupt:
        box.call("DELETE", "pairing")
        raise CommandError("the offer is closed; nobody has been paired.", status=130) from None
    if arguments.json:
        say_json({"paired": paired})
    else:
        gateway = " We are its gateway now." if paired["fronted"] else ""
        say(f"Paired with {one_line(paired['name'])}.{gateway}")
    return 0


def _show_offer(offer: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        say_json(offer)
        return
    say(f"The code is  {offer['code']}")
    say(f"As a QR code: {offer['qr']}")
    say(f"Within {offer['expires_in_ms'] // 60_000} minutes, at the other end: edgeserver pair {offer['code']}")
    say("Waiting; Ctrl-C closes the offer.")


def _wait_for_guest(box: ControlClient) -> dict[str, Any]:
    while True:
        state = box.call("GET", "pairing")
        if state["paired"] is not None:
            paired: dict[str, Any] = state["paired"]
            return paired
        if not state["open"]:
            box.call("DELETE", "pairing")
            raise CommandError(f"nobody has been paired: {state['trouble']}.")
        time.sleep(POLL_SECONDS)


def _guest(arguments: argparse.Namespace) -> int:
    box = _box(arguments)
    link = arguments.link or _only_link(box)
    if not arguments.json:
        say(f"Calling over {one_line(link)} …")
    wish = {"link": link, "secret": arguments.code, "gateway": arguments.gateway}
    paired = box.call("POST", "pairing/guest", wish, timeout=PAIR_TIMEOUT)
    if arguments.json:
        say_json({"paired": paired})
    else:
        gateway = " It is our gateway now." if paired["gateway"] else ""
        say(f"Paired with {one_line(paired['name'])}.{gateway} The line comes up by itself; edgeserver peers shows it.")
    return 0


def _only_link(box: ControlClient) -> str:
    names = [one["name"] for one in box.call("GET", "links")["links"]]
    if not names:
        raise CommandError("this box has no line to pair over: add one under [[links]] in the configuration and start it again.")
    if len(names) > 1:
        raise CommandError(f"this box has several lines, so say which with --link: {', '.join(names)}.", status=2)
    return str(names[0])


def run_unpair(arguments: argparse.Namespace) -> int:
    _box(arguments).call("DELETE", ("peers", arguments.name))
    if arguments.json:
        say_json({"unpaired": arguments.name})
    else:
        say(f"{one_line(arguments.name)} is not paired any more. Unpair this box at the other end, too.")
    return 0
