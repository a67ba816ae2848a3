"""Sending mail by SMTP (RFC 5321), with STARTTLS or TLS from the first byte. smtplib works in a thread, one mail at a time, and is imported
when the first one is sent.
"""

from __future__ import annotations

import logging
import ssl
from typing import TYPE_CHECKING, Final

import trio

from edgeserver.users.emails import MailNotSent

if TYPE_CHECKING:
    from smtplib import SMTP

    from edgeserver.config import Smtp

log = logging.getLogger(__name__)

PATIENCE: Final = 20.0
"""Seconds that one step with the mail server may take, and how long a mail waits for those before it."""


class Mailer:
    """`users.emails.Mail` over the configured server."""

    def __init__(self, config: Smtp) -> None:
        self._config = config
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def send(self, address: str, subject: str, text: str) -> None:
        """Hands one mail to the server. Raises `MailNotSent`, whatever went wrong."""
        with trio.move_on_after(PATIENCE) as waiting:
            await self._one_at_a_time.acquire()
        if waiting.cancelled_caught:
            raise MailNotSent("other mails took too long")
        try:
            await trio.to_thread.run_sync(self._send, address, subject, text, abandon_on_cancel=True)  # a box that stops does not wait
        except (OSError, ssl.SSLError, ValueError) as error:  # what smtplib raises is an OSError
            log.warning("a mail could not be sent: %s", error)
            raise MailNotSent(str(error)) from error
        finally:
            self._one_at_a_time.release()

    def _send(self, address: str, subject: str, text: str) -> None:
        from email.message import EmailMessage
        from email.utils import formatdate, make_msgid, parseaddr

        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._config.sender, address, subject
        message["Date"] = formatdate()
        message["Message-ID"] = make_msgid(domain=parseaddr(self._config.sender)[1].rpartition("@")[2])
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: nobody's holiday reply is to come back
        message.set_content(text)
        with self._connected() as server:
            if self._config.user:
                server.login(self._config.user, self._config.password)
            server.send_message(message)

    def _connected(self) -> SMTP:
        from smtplib import SMTP, SMTP_SSL

        host, port = self._config.host, self._config.port
        if self._config.tls == "implicit":
            return SMTP_SSL(host, port, timeout=PATIENCE, context=self._context())
        server = SMTP(host, port, timeout=PATIENCE)
        if self._config.tls == "starttls":
            try:
                server.starttls(context=self._context())
            except Exception:
                server.close()
                raise
        return server

    def _context(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self._config.extra_ca:
            context.load_verify_locations(self._config.extra_ca)
        return context
