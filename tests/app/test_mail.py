"""Mail goes out to a real server, in the clear or by TLS, and what goes wrong is one kind of error."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from edgeserver.app.mail import Mailer
from edgeserver.config import Smtp
from edgeserver.users.emails import MailNotSent
from tests.lab.ca import Authority
from tests.lab.mail import HOST, MailServer

SENDER = "The box <matrix@box.example>"


def config(server: MailServer, **options: str) -> Smtp:
    return Smtp(host=HOST, port=server.port, sender=SENDER, **{"tls": "none", **options})  # type: ignore[arg-type]


async def test_a_mail_says_from_whom_and_to_whom_and_that_no_answer_is_wanted() -> None:
    with MailServer() as server:
        await Mailer(config(server)).send("ana@home.example", "Grüße", "Öffne das:\n\n    https://box.example/x?token=abc\n")
    (mail,) = server.mails
    assert mail.recipients == ["ana@home.example"]
    assert (mail.message["From"], mail.message["To"], mail.message["Subject"]) == (SENDER, "ana@home.example", "Grüße")
    assert mail.message["Auto-Submitted"] == "auto-generated"
    assert mail.message["Message-ID"].endswith("@box.example>")
    assert mail.link == "/x?token=abc"


async def test_a_mail_goes_by_starttls_with_a_log_in(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    with MailServer(tls=authority.issue("127.0.0.1"), login=("box", "secret word")) as server:
        known = {"tls": "starttls", "extra_ca": str(authority.certificate), "user": "box"}
        await Mailer(config(server, **known, password="secret word")).send("ana@home.example", "x", "y")
        assert len(server.mails) == 1
        with pytest.raises(MailNotSent):
            await Mailer(config(server, **known, password="guess")).send("ana@home.example", "x", "y")
        with pytest.raises(MailNotSent):  # in the clear it takes nothing
            await Mailer(config(server)).send("ana@home.example", "x", "y")
        assert len(server.mails) == 1


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
async def test_a_mail_goes_to_no_server_whose_certificate_nobody_vouches_for(tmp_path: Path, mode: str) -> None:
    authority = Authority(tmp_path)
    with MailServer(tls=authority.issue("127.0.0.1"), implicit=mode == "implicit") as server:
        await Mailer(config(server, tls=mode, extra_ca=str(authority.certificate))).send("ana@home.example", "x", "y")
        with pytest.raises(MailNotSent):
            await Mailer(config(server, tls=mode)).send("ana@home.example", "x", "y")
        assert len(server.mails) == 1


async def test_a_server_that_refuses_or_does_not_answer_is_an_error() -> None:
    with MailServer() as server:
        server.refuse("550 No such mailbox")
        with pytest.raises(MailNotSent, match="550"):
            await Mailer(config(server)).send("ana@home.example", "x", "y")
        with pytest.raises(MailNotSent):  # it speaks no TLS
            await Mailer(config(server, tls="starttls")).send("ana@home.example", "x", "y")
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        closed = probe.getsockname()[1]
    with pytest.raises(MailNotSent):
        await Mailer(Smtp(host=HOST, port=closed, tls="none", sender=SENDER)).send("ana@home.example", "x", "y")
