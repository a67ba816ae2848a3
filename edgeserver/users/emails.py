"""Email addresses of accounts: that somebody reads what is sent to one is proven by a link in a mail.

Spec: client-server API, "Adding Account Administrative Contact Information", `…/email/requestToken`; MSC1921 (cancelling).

A validation lives for a day and serves one purpose once: to register with the address, to add it to an account, to set a new password.
The client knows its session by `sid` and its own `client_secret`; the link holds a token that only the mail carries. Of both, hashes are
kept. A mail that is asked for again goes out only with a higher `send_attempt`, and its link replaces the older one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from edgeserver.matrix import errors
from edgeserver.store import email_addresses as table

if TYPE_CHECKING:
    from collections.abc import Callable

    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.email_addresses import Validation

LIFETIME_MS: Final = 24 * 60 * 60 * 1000
VALIDATIONS: Final = 1000
"""So many may be under way; beyond that the oldest go."""
MAX_ADDRESSES: Final = 10
"""Of one account."""
MAX_ADDRESS: Final = 254
MAX_LINK: Final = 2000
MAX_ATTEMPT: Final = 2**31

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]{{1,64}}@{_LABEL}(?:\.{_LABEL})*")
_SECRET = re.compile(r"[0-9a-zA-Z.=_-]{1,255}")
_LINK = re.compile(r"https?://[^\s\"<>\\^`{|}\x00-\x1f]+")


class Purpose(StrEnum):
    """What a validation is for."""

    REGISTER = "register"
    ADD = "add"
    PASSWORD = "password"


class Mail(Protocol):
    """What sends mail; see `app.mail`."""

    async def send(self, address: str, subject: str, text: str) -> None:
        """Raises `MailNotSent`."""
        ...


class MailNotSent(Exception):
    """The mail server did not take a mail; the text is for the log."""


class Emails:
    """The addresses. `link_to(token)` is where the link with that token leads."""

    def __init__(self, db: Database, server_name: str, now_ms: Callable[[], int], mail: Mail, link_to: Callable[[str], str]) -> None:
        self._db = db
        self._server_name = server_name
        self._now_ms = now_ms
        self._mail = mail
        self._link_to = link_to

    async def addresses(self, user_id: str) -> list[dict[str, Any]]:
        """`threepids` of GET /account/3pid."""
        found = await self._db.read(lambda tx: table.of_user(tx, user_id))
        return [
            {"medium": "email", "address": one.address, "validated_at": one.validated_at, "added_at": one.added_at} for one in found
        ]

    async def owner(self, address: str) -> str | None:
        """The user who has this address; None for what is no address, too."""
        return await self._db.read(lambda tx: table.owner(tx, address.lower()))

    async def remove(self, user_id: str, address: str) -> None:
        """Takes an address away from an account, if it is its own, and with it what is under way for that address."""

        def work(tx: Transaction) -> None:
            if table.owner(tx, address.lower()) == user_id:
                table.remove(tx, user_id, address.lower())
                table.drop_validations_of(tx, address.lower())

        await self._db.write(work)

    # Validating

    async def request(
        self, purpose: Purpose, address: str, client_secret: str, attempt: int, next_link: str | None = None
    ) -> str:
        """Sends a mail with a link, unless one has been sent for this or a later attempt; returns the `sid`.

        Raises M_INVALID_PARAM, M_THREEPID_IN_USE or M_THREEPID_NOT_FOUND as the purpose asks, M_UNKNOWN (502) if the mail cannot be
        sent: the same attempt may then be made again.
        """
        address = checked_address(address)
        _check(client_secret, attempt, next_link)
        token, secret_hash, now = secrets.token_urlsafe(24), _hash(client_secret), self._now_ms()

        def work(tx: Transaction) -> tuple[Validation, int | None]:
            self._check_purpose(tx, purpose, address)
            known = table.validation_by_secret(tx, secret_hash, address, purpose)
            if known is not None and known.expires_at <= now:
                known = None
            if known is not None and (attempt <= known.attempt or known.validated_at is not None):
                return known, None
            sid = secrets.token_urlsafe(12) if known is None else known.sid
            new = table.Validation(sid, address, purpose, secret_hash, attempt, next_link, now + LIFETIME_MS, None)
            table.put_validation(tx, new, _hash(token))
            table.tidy_validations(tx, now, VALIDATIONS)
            return new, 0 if known is None else known.attempt

        validation, before = await self._db.write(work)
        if before is not None:
            await self._send(purpose, validation, token, before)
        return validation.sid

    def _check_purpose(self, tx: Transaction, purpose: Purpose, address: str) -> None:
        is_known = table.owner(tx, address) is not None
        if purpose is Purpose.PASSWORD and not is_known:
            raise errors.ThreepidNotFound
        if purpose is not Purpose.PASSWORD and is_known:
            raise errors.ThreepidInUse

    async def _send(self, purpose: Purpose, validation: Validation, token: str, before: int) -> None:
        subject, text = _letter(purpose, self._server_name, self._link_to(token))
        try:
            await self._mail.send(validation.address, subject, text)
        except MailNotSent as error:
            await self._db.write(lambda tx: table.set_attempt(tx, validation.sid, before))
            raise errors.Unknown("The mail could not be sent; please try again later.", status=502) from error

    async def validation_of(self, token: str) -> Validation:
        """The validation that a link belongs to. Raises M_NOT_FOUND for a link that is wrong, replaced or has expired."""
        found = await self._db.read(lambda tx: table.validation_by_token(tx, _hash(token)))
        if found is None or found.expires_at <= self._now_ms():
            raise errors.NotFound("This link is not valid any more.")
        return found

    async def confirm(self, token: str) -> Validation:
        """The link has been followed. Raises as `validation_of`."""
        found = await self.validation_of(token)
        await self._db.write(lambda tx: table.set_validated(tx, found.sid, self._now_ms()))
        return found

    async def cancel(self, sid: str, client_secret: str, token: str | None) -> None:
        """Ends a session before its time: its link is void. A `token` that is given must be the link's. Raises M_THREEPID_AUTH_FAILED."""

        def work(tx: Transaction) -> None:
            found = self._session(tx, sid, client_secret)
            if token is not None:
                by_token = table.validation_by_token(tx, _hash(token))
                if by_token is None or by_token.sid != found.sid:
                    raise errors.ThreepidAuthFailed
            table.drop_validation(tx, found.sid)

        await self._db.write(work)

    async def check(self, sid: Any, client_secret: Any) -> Validation:
        """The session, validated. Raises M_THREEPID_AUTH_FAILED."""
        return await self._db.read(lambda tx: self._validated(tx, sid, client_secret))

    def _session(self, tx: Transaction, sid: Any, client_secret: Any) -> Validation:
        found = table.validation(tx, sid) if isinstance(sid, str) and isinstance(client_secret, str) else None
        if found is None or found.expires_at <= self._now_ms() or not hmac.compare_digest(found.secret_hash, _hash(client_secret)):
            raise errors.ThreepidAuthFailed
        return found

    def _validated(self, tx: Transaction, sid: Any, client_secret: Any) -> Validation:
        found = self._session(tx, sid, client_secret)
        if found.validated_at is None:
            raise errors.ThreepidAuthFailed
        return found

    # Using what has been validated

    def spend(self, tx: Transaction, sid: Any, client_secret: Any, purpose: Purpose) -> Validation:
        """A validated session of this purpose, which is gone with the transaction. Raises as `check`."""
        found = self._validated(tx, sid, client_secret)
        if found.purpose != purpose:
            raise errors.ThreepidAuthFailed
        table.drop_validation(tx, found.sid)
        return found

    def add(self, tx: Transaction, user_id: str, sid: Any, client_secret: Any, purpose: Purpose) -> None:
        """Gives an account the address of a validated session.

        Raises as `check`, M_THREEPID_IN_USE, M_INVALID_PARAM for more than `MAX_ADDRESSES`.
        """
        found = self.spend(tx, sid, client_secret, purpose)
        owner = table.owner(tx, found.address)
        if owner == user_id:
            return
        if owner is not None:
            raise errors.ThreepidInUse
        if len(table.of_user(tx, user_id)) >= MAX_ADDRESSES:
            raise errors.InvalidParam(f"An account has at most {MAX_ADDRESSES} email addresses.")
        now = self._now_ms()
        table.add(tx, table.Address(found.address, user_id, found.validated_at or now, now))

    async def add_to(self, user_id: str, sid: Any, client_secret: Any) -> None:
        """POST /account/3pid/add."""
        await self._db.write(lambda tx: self.add(tx, user_id, sid, client_secret, Purpose.ADD))


def checked_address(address: str) -> str:
    """The address in lower case. Raises M_INVALID_PARAM for what is none."""
    if len(address) > MAX_ADDRESS or _ADDRESS.fullmatch(address) is None or ".." in address:
        raise errors.InvalidParam("That is not an email address.")
    return address.lower()


def _check(client_secret: str, attempt: int, next_link: str | None) -> None:
    if _SECRET.fullmatch(client_secret) is None:
        raise errors.InvalidParam("client_secret consists of 1 to 255 characters of 0-9a-zA-Z.=_-")
    if not 0 < attempt < MAX_ATTEMPT:
        raise errors.InvalidParam("send_attempt is a whole number from 1.")
    if next_link is not None and (len(next_link) > MAX_LINK or _LINK.fullmatch(next_link) is None):
        raise errors.InvalidParam("next_link is no http or https URL.")


def _letter(purpose: Purpose, server_name: str, link: str) -> tuple[str, str]:
    """(subject, text) of the mail."""
    subject, wish = {
        Purpose.REGISTER: ("Your new account", "wants to make an account"),
        Purpose.ADD: ("Your email address", "wants to add this address to an account"),
        Purpose.PASSWORD: ("A new password", "wants to set a new password for an account"),
    }[purpose]
    return f"{subject} on {server_name}", (
        f"Somebody {wish} on {server_name} and has given this email address.\n\n"
        "If it was you, open this link within a day, and confirm:\n\n"
        f"    {link}\n\nIf it was not you, do nothing: without your confirmation nothing will happen.\n"
    )


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=32).digest()
