"""A stock Synapse as a peer: SQLite, our certificate authority, no limits that would slow a test down.

It is run, never imported. Its name is what federation calls it: `localhost:PORT` and `127.0.0.1:PORT` need no more, and
a name without a port wants TLS on 8448 (`federation=("127.0.0.2", 8448)`), a hosts file or DNS that says where, and a
name server that denies the SRV record at once: in a namespace that is `tests.lab.dns`, or each request fails with 502.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import importlib.util
import json
import os
import socket
import sqlite3
from pathlib import Path
from typing import Any, Self

import trio

from tests.lab.ca import Authority
from tests.lab.programs import LabError, Program, python_module, wait_for
from tests.lab.web import Answer, answers, request

_ENDLESS = {"per_second": 10_000, "burst_count": 100_000}
_LIMITS: dict[str, Any] = {
    "rc_message": _ENDLESS,
    "rc_registration": _ENDLESS,
    "rc_registration_token_validity": _ENDLESS,
    "rc_login": {"address": _ENDLESS, "account": _ENDLESS, "failed_attempts": _ENDLESS},
    "rc_admin_redaction": _ENDLESS,
    "rc_joins": {"local": _ENDLESS, "remote": _ENDLESS},
    "rc_joins_per_room": _ENDLESS,
    "rc_3pid_validation": _ENDLESS,
    "rc_invites": {"per_room": _ENDLESS, "per_user": _ENDLESS, "per_issuer": _ENDLESS},
    "rc_third_party_invite": _ENDLESS,
    "rc_media_create": _ENDLESS,
    "rc_federation": {"window_size": 1000, "sleep_limit": 100_000, "reject_limit": 100_000, "concurrent": 100},
    "rc_presence": {"per_user": _ENDLESS},
    "rc_delayed_event_mgmt": _ENDLESS,
    "rc_room_creation": _ENDLESS,
}


def unavailable() -> str | None:
    """Why Synapse cannot be started here, or None."""
    return None if importlib.util.find_spec("synapse") else "matrix-synapse is not installed in this environment"


def free_port(address: str = "127.0.0.1") -> int:
    """A TCP port that nobody used a moment ago."""
    with socket.create_server((address, 0)) as probe:
        return int(probe.getsockname()[1])


class Synapse:
    """One homeserver in `directory`; `with` starts and stops it, and starting it again finds its data.

    `client` is the address of plain HTTP for clients, `federation` that of TLS; both serve all resources.
    `config` is merged over the homeserver.yaml made here.
    """

    def __init__(
        self,
        directory: Path,
        authority: Authority,
        server_name: str | None = None,
        *,
        client: tuple[str, int] | None = None,
        federation: tuple[str, int] | None = None,
        netns: str | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.client = client or ("127.0.0.1", 8008 if netns else free_port())
        self.federation = federation or ("127.0.0.1", 8448 if netns else free_port())
        self.server_name = server_name or f"localhost:{self.federation[1]}"
        self.netns = netns
        self.base_url = f"http://{self.client[0]}:{self.client[1]}"
        self.database = directory / "homeserver.db"
        self._directory = directory
        self._secret = "lab"
        directory.mkdir(parents=True, exist_ok=True)
        self._write_config(authority, config or {})
        argv = python_module("synapse.app.homeserver", "--config-path", str(directory / "homeserver.yaml"))
        self.program = Program(argv, log=directory / "synapse.log", netns=netns, cwd=directory)

    def _write_config(self, authority: Authority, more: dict[str, Any]) -> None:
        directory = self._directory
        certificate = authority.issue(self.server_name.rpartition(":")[0] or self.server_name)
        key = directory / "signing.key"
        if not key.exists():
            key.write_text(f"ed25519 a_lab {base64.b64encode(os.urandom(32)).decode().rstrip('=')}\n")
        logs = {
            "version": 1,
            "formatters": {"plain": {"format": "%(asctime)s %(name)s %(levelname)s %(request)s %(message)s"}},
            "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain"}},
            "root": {"level": "INFO", "handlers": ["stderr"]},
            "disable_existing_loggers": False,
        }
        (directory / "log.yaml").write_text(json.dumps(logs))
        resources = [{"names": ["client", "federation"]}]
        config = {
            "server_name": self.server_name,
            "public_baseurl": self.base_url,
            "pid_file": str(directory / "synapse.pid"),
            "listeners": [
                _listener(self.client, resources),
                {**_listener(self.federation, resources), "tls": True},
            ],
            "tls_certificate_path": str(certificate.chain),
            "tls_private_key_path": str(certificate.key),
            "federation_custom_ca_list": [str(authority.certificate)],
            "database": {"name": "sqlite3", "args": {"database": str(self.database)}},
            "log_config": str(directory / "log.yaml"),
            "media_store_path": str(directory / "media"),
            "signing_key_path": str(key),
            "registration_shared_secret": self._secret,
            "macaroon_secret_key": "lab",
            "form_secret": "lab",
            "report_stats": False,
            "trusted_key_servers": [],
            "suppress_key_server_warning": True,
            "ip_range_blacklist": [],
            "federation_ip_range_blacklist": [],
            "enable_registration": False,
            "bcrypt_rounds": 4,
            "allow_public_rooms_over_federation": True,
            "room_list_publication_rules": [{"action": "allow"}],
            **_LIMITS,
            **more,
        }
        (directory / "homeserver.yaml").write_text(json.dumps(config, indent=1))

    # --- Running

    def start(self) -> Self:
        """Starts it and returns when clients are answered (about a second, seven on a cold cache)."""
        self.begin()
        self.wait_ready()
        return self

    def begin(self) -> Self:
        """Starts it and returns at once, for starting several; `wait_ready` then waits."""
        self.program.start()
        return self

    def wait_ready(self, timeout: float = 90) -> None:
        ready = functools.partial(answers, f"{self.base_url}/_matrix/client/versions", netns=self.netns)
        wait_for(f"Synapse {self.server_name}", ready, timeout=timeout, program=self.program)

    def stop(self) -> None:
        self.program.stop(timeout=5)

    def kill(self) -> None:
        self.program.kill()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- Using it

    def register(self, user: str, password: str = "lab-password", *, admin: bool = False) -> str:
        """Makes an account through the shared-secret API; returns an access token."""
        path = "/_synapse/admin/v1/register"
        nonce = self.request("GET", path).json["nonce"]
        role = "admin" if admin else "notadmin"
        said = "\0".join((nonce, user, password, role)).encode()
        mac = hmac.new(self._secret.encode(), said, hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": user, "password": password, "admin": admin, "mac": mac}
        answer = self.request("POST", path, body)
        if answer.status != 200:
            raise LabError(f"register {user}: {answer}")
        return str(answer.json["access_token"])

    def request(self, method: str, path: str, body: Any = None, token: str | None = None) -> Answer:
        """A request to its client port."""
        return request(method, self.base_url + path, body=body, token=token, netns=self.netns)

    async def arequest(self, method: str, path: str, body: Any = None, token: str | None = None) -> Answer:
        """`request` for trio."""
        return await trio.to_thread.run_sync(self.request, method, path, body, token, abandon_on_cancel=True)

    # --- Looking inside

    def rows(self, sql: str, *params: Any) -> list[dict[str, Any]]:
        """Reads its database while it runs, or after."""
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=10) as database:
            database.row_factory = sqlite3.Row
            found = [dict(row) for row in database.execute(sql, params)]
        database.close()
        return found

    def destination(self, server_name: str) -> dict[str, Any] | None:
        """How it sees a peer: `retry_last_ts`, `retry_interval` (ms; 0: no back-off), `failure_ts` …; or None."""
        found = self.rows("SELECT * FROM destinations WHERE destination = ?", server_name)
        return {**found[0], "retry_interval": found[0]["retry_interval"] or 0} if found else None

    def keys_of(self, server_name: str) -> dict[str, str]:
        """The verify keys that it has stored for a server: `{key id: unpadded base64}`."""
        sql = "SELECT key_id, verify_key FROM server_signature_keys WHERE server_name = ?"
        return {row["key_id"]: base64.b64encode(row["verify_key"]).decode().rstrip("=") for row in self.rows(sql, server_name)}

    def key_responses_from(self, server_name: str) -> list[dict[str, Any]]:
        """The signed /_matrix/key answers that it keeps about a server, and from whom each came (`from_server`)."""
        sql = "SELECT key_id, from_server, ts_valid_until_ms, key_json FROM server_keys_json WHERE server_name = ?"
        return [{**row, "key_json": json.loads(row["key_json"])} for row in self.rows(sql, server_name)]

    def state(self, room_id: str) -> dict[tuple[str, str], dict[str, Any]]:
        """The current state of a room: `{(type, state_key): event as stored}`."""
        sql = (
            "SELECT s.type, s.state_key, s.event_id, j.json FROM current_state_events s"
            " JOIN event_json j USING (event_id) WHERE s.room_id = ?"
        )
        return {
            (row["type"], row["state_key"]): {**json.loads(row["json"]), "event_id": row["event_id"]} for row in self.rows(sql, room_id)
        }

    def timeline(self, room_id: str) -> list[dict[str, Any]]:
        """Every event of a room that it has accepted, in its own order, with `rejection_reason` where it has one."""
        sql = (
            "SELECT e.event_id, e.stream_ordering, e.outlier, e.rejection_reason, j.json FROM events e"
            " JOIN event_json j USING (event_id) WHERE e.room_id = ? ORDER BY e.stream_ordering"
        )
        return [
            {
                **json.loads(row["json"]),
                "event_id": row["event_id"],
                "outlier": bool(row["outlier"]),
                "rejection_reason": row["rejection_reason"],
            }
            for row in self.rows(sql, room_id)
        ]


def _listener(address: tuple[str, int], resources: list[dict[str, list[str]]]) -> dict[str, Any]:
    return {"port": address[1], "bind_addresses": [address[0]], "type": "http", "resources": resources}
