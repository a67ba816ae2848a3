"""Boxes as processes for interoperability tests: their configuration, their certificate, their people."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.interop.people import Person
from tests.lab.box import Box
from tests.lab.programs import LabError
from tests.lab.synapse import Synapse, free_port

SECRET = "lab"
PASSWORD = "lab-password-of-a-box"

_CONFIG = """
[server]
name = "{name}"
data = "data"
clock = "system"
log_level = "info"

[http]
client = ["{client}"]
federation = {federation}
{certificate}

[accounts]
registration = "open"
registration_shared_secret = "{secret}"

[limits]
rate_limits = false
{limits}

[federation]
{federating}

[discovery]
mdns = false
"""


def local_box(directory: Path, name: str = "box.test", *, limits: str = "", wrapper: Sequence[str] = ()) -> Box:
    """A box on loopback that federates with nobody. `limits`: more of that section of the configuration; `wrapper`: see `Box`."""
    port = free_port()
    config = _CONFIG.format(
        name=name,
        client=f"127.0.0.1:{port}",
        federation="[]",
        certificate="",
        secret=SECRET,
        limits=limits,
        federating="internet = false",
    )
    return Box(directory, config, f"http://127.0.0.1:{port}", wrapper=wrapper)


def federating_box(directory: Path, name: str, address: str, netns: str, certificate: Any, ca: Path, nameserver: str) -> Box:
    """A box in a namespace, with its certificate on 8448 and the laboratory's name server and authority."""
    config = _CONFIG.format(
        name=name,
        client="127.0.0.1:8008",
        federation=f'["{address}:8448"]',
        certificate=f'certificate = "{certificate.chain}"\ncertificate_key = "{certificate.key}"',
        secret=SECRET,
        limits="",
        federating=f'extra_ca = "{ca}"\nprivate_addresses = true\nnameservers = ["{nameserver}"]',
    )
    return Box(directory, config, "http://127.0.0.1:8008", netns=netns)


def register(home: Box, name: str) -> Person:
    """An account on a box, through the shared-secret API."""
    path = "/_synapse/admin/v1/register"
    nonce = home.request("GET", path).json["nonce"]
    mac = hmac.new(SECRET.encode(), f"{nonce}\0{name}\0{PASSWORD}\0notadmin".encode(), hashlib.sha1).hexdigest()
    body = {"nonce": nonce, "username": name, "password": PASSWORD, "admin": False, "mac": mac}
    answer = home.request("POST", path, body)
    if answer.status != 200:
        raise LabError(f"register {name}: {answer}")
    return Person(home, answer.json["user_id"], answer.json["access_token"])


def register_there(home: Synapse, name: str) -> Person:
    """An account on a Synapse."""
    return Person(home, f"@{name}:{home.server_name}", home.register(name, PASSWORD))
