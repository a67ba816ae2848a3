"""From the URI of a configured line to the driver that knows the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transports.link.wire import Driver


class WireError(Exception):
    """The URI names no line; one sentence for the operator."""


@dataclass(frozen=True, slots=True)
class Listen:
    """`udp-listen:HOST:PORT`: one socket for many peers that call us, rather than one line."""

    host: str
    port: int


def driver_of(uri: str, *, mtu: int | None = None) -> Driver:
    """The driver of one line: `serial:PATH,BAUD`, `rs485:PATH,BAUD` or `udp:HOST:PORT`. `mtu` is that of a serial line (None: as fits its
    rate). Raises `WireError`.
    """
    kind, _, rest = uri.partition(":")
    if kind in ("serial", "rs485"):
        path, _, baud = rest.rpartition(",")
        if not path or not (baud.isascii() and baud.isdecimal()) or int(baud) < 50:
            raise WireError(f"{uri!r} is not {kind}:PATH,BAUD, such as {kind}:/dev/ttyUSB0,{2400 if kind == 'serial' else 9600}")
        from transports.serial import SerialDriver

        port = SerialDriver(path, int(baud), mtu=mtu)
        if kind == "serial":
            return port
        from transports.multidrop import Bus

        return Bus(uri.rpartition(",")[0], port.open_stream, int(baud))
    if kind == "udp":
        from transports.udp import UdpDriver

        return UdpDriver(*_host_and_port(uri, rest))
    raise WireError(
        f"{uri!r} is no line that this release knows; there are serial:PATH,BAUD, rs485:PATH,BAUD, udp:HOST:PORT and"
        " udp-listen:HOST:PORT"
    )


def is_shared(uri: str) -> bool:
    """Whether all lines with that URI are links of one station at one port, and want one driver."""
    return uri.startswith("rs485:")


def listener_of(uri: str) -> Listen | None:
    """What `udp-listen:HOST:PORT` says; None for every other URI. Raises `WireError`."""
    kind, _, rest = uri.partition(":")
    return Listen(*_host_and_port(uri, rest)) if kind == "udp-listen" else None


def _host_and_port(uri: str, rest: str) -> tuple[str, int]:
    host, _, port = rest.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65536:
        raise WireError(f"{uri!r} lacks its host and port, as in udp:gateway.example.org:7710")
    return host.strip("[]"), int(port)
