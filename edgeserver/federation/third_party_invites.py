"""Invites to an email address or the like, once an identity server has found the user behind it.

PUT /v1/exchange_third_party_invite/{roomId}, PUT /v1/3pid/onbind. Spec: server-server API, "Third-party invites";
client-server API, "Third-party invites".

The room holds an m.room.third_party_invite with a token and the identity server's public keys. Whoever brings that
token, bound to a user id and signed with one of those keys, has the user invited, in the name of who offered it.

/3pid/onbind takes anybody's word, since identity servers have no keys that we could know beforehand. What it can bring
about is bounded: for a user of ours, one request to the inviter's server, a few at a time; the proof is weighed by a
server in the room, this one or that one.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import urlencode, urlsplit

from edgeserver.federation.errors import FederationError, as_matrix_error
from edgeserver.federation.participation import our_room
from edgeserver.matrix import canonical_json, errors
from edgeserver.matrix.auth_member import MAX_INVITE_SIGNATURES
from edgeserver.matrix.identifiers import domain_of, fits, is_room_id, is_user_id
from edgeserver.matrix.signatures import SignatureError, decode_base64, verify_json
from edgeserver.matrix.verdicts import Accepted
from edgeserver.rooms.placing import Task
from edgeserver.store import accounts, rooms, state
from transports.exchange import ExchangeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from edgeserver.federation.calls import Calls
    from edgeserver.federation.internet import InternetWeb
    from edgeserver.federation.resident import Placing
    from edgeserver.matrix.event import Event
    from edgeserver.rooms.send import Composer
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

log = logging.getLogger(__name__)

OFFER: Final = "m.room.third_party_invite"
MAX_INVITES: Final = 20
MAX_AT_ONCE: Final = 4
MAX_TOKEN: Final = 255
MAX_URL: Final = 2048
MAX_VALIDITY_ANSWER: Final = 4096
BUSY_MS: Final = 30_000


class Countersigning(Protocol):
    """What has another server sign an invite of one of its users; see `joins.RemoteRooms`."""

    async def invite(self, event: Event, stripped: Sequence[Mapping[str, Any]], create: Mapping[str, Any]) -> Event: ...


@dataclass(frozen=True, slots=True)
class Claim:
    """An invite to be made: `signed` is what the identity server signed, `{mxid, token, signatures}`."""

    room_id: str
    sender: str
    target: str
    signed: Mapping[str, Any]

    @property
    def content(self) -> dict[str, Any]:
        """Of the m.room.member. The name is what a server that is not in the room can say; the room knows a better one."""
        return {"membership": "invite", "third_party_invite": {"display_name": self.target, "signed": dict(self.signed)}}


class KeyValidity:
    """Asks whether an identity server's key has been revoked. `web` None: this box has no internet."""

    def __init__(self, web: InternetWeb | None) -> None:
        self._web = web

    async def check(self, url: str, public_key: str) -> None:
        """Raises M_FORBIDDEN for a key that is revoked, M_UNKNOWN (502) if that cannot be learnt."""
        unknown = errors.Unknown("Whether the identity server's key is still valid could not be learnt.", status=502)
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or 443
        except ValueError:
            raise errors.Forbidden("The key's validity URL is malformed.") from None
        is_plain = len(url) <= MAX_URL and all("!" <= char <= "~" for char in url)
        if parts.scheme != "https" or not host or parts.username is not None or not is_plain:
            raise errors.Forbidden("The key's validity URL is not an https URL.")
        if self._web is None:
            raise unknown
        asked = urlencode({"public_key": public_key})
        target = f"{parts.path or '/'}?{parts.query}&{asked}" if parts.query else f"{parts.path or '/'}?{asked}"
        try:
            response = await self._web.get(host, port, target, max_response=MAX_VALIDITY_ANSWER)
            answer = canonical_json.decode(response.body)
        except (ExchangeError, canonical_json.CanonicalJSONError) as error:
            raise unknown from error
        if response.status != 200 or not isinstance(answer, dict):
            raise unknown
        if answer.get("valid") is not True:
            raise errors.Forbidden("The identity server's key is no longer valid.")


class ThirdPartyInvites:
    """Both sides of the exchange. Every method raises `MatrixError`."""

    def __init__(
        self,
        db: Database,
        composer: Composer,
        placer: Placing,
        calls: Calls,
        remote: Countersigning,
        validity: KeyValidity,
        *,
        server_name: str,
        profile: Callable[[Transaction, str], Mapping[str, Any]],
    ) -> None:
        """`profile` is what a member event says of a local user."""
        self._db = db
        self._composer = composer
        self._placer = placer
        self._calls = calls
        self._remote = remote
        self._validity = validity
        self._server_name = server_name
        self._profile = profile
        self._at_once = 0

    # We are in the room: somebody brings a signed token

    async def exchange(self, origin: str, room_id: str, body: Mapping[str, Any]) -> None:
        """Turns the partial m.room.member of another server into an invite, has it signed, and sends it."""
        content = body.get("content")
        invite = content.get("third_party_invite") if isinstance(content, dict) else None
        if body.get("type") != "m.room.member" or not isinstance(content, dict) or content.get("membership") != "invite":
            raise errors.InvalidParam("That is not an m.room.member event with an invite.")
        if body.get("room_id") != room_id:
            raise errors.InvalidParam("The event is of another room.")
        signed = invite.get("signed") if isinstance(invite, dict) else None
        claim = checked_claim(room_id, body.get("sender"), body.get("state_key"), signed)
        await self._db.read(lambda tx: our_room(tx, room_id, origin))
        await self._issue(claim)

    async def _issue(self, claim: Claim) -> None:
        """Makes the invite, if the room's rules allow it and the identity server's key still holds."""
        event, room, offer = await self._db.read(lambda tx: self._draft(tx, claim))
        await self._check_keys(claim.signed, offer)
        if domain_of(claim.target) == self._server_name:
            await self._db.write(lambda tx: self._write(tx, claim))
            return
        signed = await self._remote.invite(event, [], {})
        verdict = await self._placer.place(Task(room.number, signed, deliver=True))
        if not isinstance(verdict, Accepted):
            raise errors.Forbidden(f"The room does not allow it: {verdict.why}.")

    def _draft(self, tx: Transaction, claim: Claim) -> tuple[Event, Room, Mapping[str, Any]]:
        room, content, offer = self._prepared(tx, claim)
        event, _ = self._composer.draft(tx, room, claim.sender, "m.room.member", content, state_key=claim.target)
        self._composer.authorise(tx, room, event)
        return event, room, offer

    def _write(self, tx: Transaction, claim: Claim) -> None:
        room, content, _ = self._prepared(tx, claim)
        self._composer.compose(tx, room, claim.sender, "m.room.member", content, state_key=claim.target)

    def _prepared(self, tx: Transaction, claim: Claim) -> tuple[Room, dict[str, Any], Mapping[str, Any]]:
        """The room, the invite's content, and the content of the offer that it takes up. Raises M_NOT_FOUND, M_FORBIDDEN."""
        room = rooms.get(tx, claim.room_id)
        if room is None or room.snapshot is None or not rooms.local_members(tx, room.number):
            raise errors.NotFound("This server is not in that room.")
        offer = state.lookup_event(tx, room.snapshot, OFFER, str(claim.signed["token"]))
        if offer is None:
            raise errors.Forbidden("The room has no third-party invite of this token.")
        member = rooms.membership(tx, claim.target, room.number)
        if member is not None and member.membership == "join":  # the auth rules would let the invite put them out
            raise errors.Forbidden("The invited user is in the room already.")
        content = claim.content
        name = offer.event.content.get("display_name")
        if isinstance(name, str):
            content["third_party_invite"]["display_name"] = name
        if domain_of(claim.target) == self._server_name:
            content = {**self._profile(tx, claim.target), **content}
        return room, content, offer.event.content

    async def _check_keys(self, signed: Mapping[str, Any], offer: Mapping[str, Any]) -> None:
        """A key without a validity URL is valid for ever; of the others one must be confirmed."""
        keys = list(dict.fromkeys(signing_keys(signed, offer)))
        if not keys or any(url is None for _, url in keys):
            return  # without any the auth rules have refused already
        failure: errors.MatrixError | None = None
        for public_key, url in keys[:MAX_AT_ONCE]:
            try:
                await self._validity.check(str(url), public_key)
            except errors.MatrixError as error:
                failure = error
            else:
                return
        assert failure is not None
        raise failure

    # A user of ours has been found behind an address

    async def bound(self, body: Mapping[str, Any]) -> None:
        """Takes up the pending invites of a user of ours; those of anybody else are passed over in silence.

        Raises 429 while others are being taken up, and 502 or 504 if the identity server should try again later.
        """
        mxid, invites = body.get("mxid"), body.get("invites")
        if not is_user_id(mxid) or not isinstance(invites, list):
            raise errors.BadJson("mxid is not a user id, or invites not a list.")
        claims = list(_claims_for(mxid, invites))
        if not await self._db.read(lambda tx: self._is_ours(tx, mxid)):
            return
        if self._at_once >= MAX_AT_ONCE:
            raise errors.LimitExceeded(BUSY_MS)
        self._at_once += 1
        try:
            failures = [failure for claim in claims if (failure := await self._taken_up(claim)) is not None]
        finally:
            self._at_once -= 1
        passing = [failure for failure in failures if failure.status >= 500]
        if passing:
            raise passing[-1]

    def _is_ours(self, tx: Transaction, user_id: str) -> bool:
        account = accounts.account(tx, user_id)
        return domain_of(user_id) == self._server_name and account is not None and account.deactivated_at is None

    async def _taken_up(self, claim: Claim) -> errors.MatrixError | None:
        """Has the user invited: here if we are in the room, else by the inviter's server."""
        here, membership = await self._db.read(lambda tx: _known(tx, claim))
        if membership in ("invite", "join", "ban"):
            return None
        try:
            if here:
                await self._issue(claim)
            else:
                await self._ask(claim)
        except errors.MatrixError as error:
            log.info("the third-party invite of %s to %s by %s failed: %s", claim.target, claim.room_id, claim.sender, error)
            return error
        return None

    async def _ask(self, claim: Claim) -> None:
        """The inviter's server is in the room, or was; in old versions the room's id names another."""
        event = {
            "type": "m.room.member",
            "room_id": claim.room_id,
            "sender": claim.sender,
            "state_key": claim.target,
            "content": claim.content,
        }
        named = [domain_of(claim.sender), *([domain_of(claim.room_id)] if ":" in claim.room_id else [])]
        failure: FederationError | None = None
        for server in [name for name in dict.fromkeys(named) if name != self._server_name]:
            try:
                await self._calls.exchange_third_party_invite(server, claim.room_id, event)
            except FederationError as error:
                failure = failure or error
            else:
                return
        if failure is not None:
            raise as_matrix_error(failure) from failure
        raise errors.NotFound("No other server is known that is in the room.")


def checked_claim(room_id: Any, sender: Any, target: Any, signed: Any) -> Claim:
    """Raises M_INVALID_PARAM, M_BAD_JSON."""
    if not is_room_id(room_id) or not is_user_id(sender) or not is_user_id(target):
        raise errors.InvalidParam("The room, the sender or the invited user is not named by an id.")
    if not isinstance(signed, dict) or not isinstance(signed.get("signatures"), dict):
        raise errors.BadJson("signed is missing, or carries no signatures.")
    token = signed.get("token")
    if not isinstance(token, str) or not fits(token, MAX_TOKEN):
        raise errors.BadJson("token is missing or too long.")
    if signed.get("mxid") != target:
        raise errors.InvalidParam("What was signed is for another user.")
    # What else was signed is part of what the signature is over.
    return Claim(room_id, sender, target, signed)


def signing_keys(signed: Mapping[str, Any], offer: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The keys of an m.room.third_party_invite that have signed: (public key as it stands there, its validity URL)."""
    more = offer.get("public_keys")
    entries = [entry for entry in (offer, *(more if isinstance(more, list) else ())) if isinstance(entry, dict)]
    named = [
        (server, key_id)
        for server, by_key in signed["signatures"].items()
        for key_id in (by_key if isinstance(by_key, dict) else ())
    ]
    tries = ((entry, server, key_id) for server, key_id in named for entry in entries)
    for entry, server, key_id in islice(tries, MAX_INVITE_SIGNATURES):
        text, url = entry.get("public_key"), entry.get("key_validity_url")
        try:
            verify_json(signed, server, key_id, decode_base64(text) if isinstance(text, str) else b"")
        except (SignatureError, ValueError):
            continue
        yield str(text), url if isinstance(url, str) else None


def _claims_for(mxid: str, invites: Sequence[Any]) -> Iterator[Claim]:
    """The well-formed invites of this user."""
    for invite in invites[:MAX_INVITES]:
        if isinstance(invite, dict) and invite.get("mxid") == mxid:
            try:
                yield checked_claim(invite.get("room_id"), invite.get("sender"), mxid, invite.get("signed"))
            except errors.MatrixError as error:
                log.info("an identity server sent a malformed invite: %s", error)


def _known(tx: Transaction, claim: Claim) -> tuple[bool, str | None]:
    """Whether users of ours are in the room, and the invited user's membership."""
    room = rooms.get(tx, claim.room_id)
    if room is None:
        return False, None
    member = rooms.membership(tx, claim.target, room.number)
    return bool(rooms.local_members(tx, room.number)), None if member is None else member.membership
