"""A real mail server (aiosmtpd) in a thread of its own, that keeps what it is given."""

from __future__ import annotations

import re
import socket
import ssl
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from typing import TYPE_CHECKING, Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword

if TYPE_CHECKING:
    from email.message import EmailMessage
    from types import TracebackType

    from tests.lab.ca import Certificate

HOST = "127.0.0.1"


@dataclass
class Taken:
    """One mail: who it was for on the envelope, and what it says."""

    recipients: list[str]
    message: EmailMessage

    @property
    def text(self) -> str:
        return str(self.message.get_content())

    @property
    def link(self) -> str:
        """Path and query of the link in it."""
        found = re.search(r"https?://[^/\s]+(/\S+)", self.text)
        assert found is not None
        return found[1]


@dataclass
class _Handler:
    mails: list[Taken] = field(default_factory=list)
    refusal: str | None = None

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.refusal is not None:
            return self.refusal
        parsed = message_from_bytes(envelope.content, policy=policy.default)
        self.mails.append(Taken(list(envelope.rcpt_tos), parsed))
        return "250 OK"


class _Controller(Controller):
    def _trigger_server(self) -> None:
        """Knocks once, so that the server's thread is seen to work: the original knocks with the server's own TLS context."""
        socket.create_connection((self.hostname, self.port), 5).close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class MailServer:
    """`with MailServer() as server`: `server.port`, `server.mails`. `tls`: its certificate, for STARTTLS or (`implicit`) from the start;
    `login`: (name, password) without which it takes nothing.
    """

    def __init__(self, *, tls: Certificate | None = None, implicit: bool = False, login: tuple[str, str] | None = None) -> None:
        self._handler = _Handler()
        self._login = login
        context = None
        if tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(tls.chain, tls.key)
        options: dict[str, Any] = {"authenticator": self._authenticate, "auth_required": login is not None}
        if implicit:
            options |= {"ssl_context": context}
        elif context is not None:
            options |= {"tls_context": context, "require_starttls": True}
        self._controller = _Controller(self._handler, hostname=HOST, port=_free_port(), **options)

    def __enter__(self) -> MailServer:
        self._controller.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._controller.stop()

    def _authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        given = (data.login.decode(), data.password.decode()) if isinstance(data, LoginPassword) else None
        return AuthResult(success=given == self._login, handled=False)

    @property
    def port(self) -> int:
        return int(self._controller.port)

    @property
    def mails(self) -> list[Taken]:
        return self._handler.mails

    def refuse(self, answer: str | None) -> None:
        """Answers every mail with this line of SMTP; None: takes them again."""
        self._handler.refusal = answer
