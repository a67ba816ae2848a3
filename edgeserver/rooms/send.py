"""Sending: an event of a local user is drafted, authorised, signed and written in one transaction.

`compose` is the whole of it and runs inside a write transaction, so callers make several events at once (a new room) that stand or fall
together. There is no lock: the single writer puts sends in order, and the room's heads are read in the same transaction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from edgeserver.matrix import auth, errors
from edgeserver.matrix.auth_events import CREATE, POWER_LEVELS, auth_types_for, auth_types_of
from edgeserver.matrix.draft import complete, depth_after, references, template
from edgeserver.matrix.power_levels import PowerLevels
from edgeserver.matrix.verdicts import Accepted
from edgeserver.rooms import relating, state_at
from edgeserver.rooms.persist import Placement
from edgeserver.rooms.placing import auth_state
from edgeserver.store import events, rooms, state
from edgeserver.store.events import Standing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.room_versions import RoomVersion
    from edgeserver.matrix.signatures import SigningKey
    from edgeserver.rooms.persist import PersistedEvent, Persister
    from edgeserver.rooms.policy import PolicyGate
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.rooms import Room

T = TypeVar("T")

MAX_PREV_EVENTS = 10
"""Of more heads than this only the deepest are cited; the rest stay heads."""


class Composer:
    """Makes this server's events."""

    def __init__(
        self,
        db: Database,
        persister: Persister,
        server_name: str,
        key: SigningKey,
        now_ms: Callable[[], int],
        policy: PolicyGate | None = None,
    ) -> None:
        """`policy` None: rooms' policy servers are not asked."""
        self._policy = policy
        self._db = db
        self._persister = persister
        self._server_name = server_name
        self._key = key
        self._now_ms = now_ms

    async def send(
        self,
        room_id: str,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
        redacts: str | None = None,
        device_id: str | None = None,
        txn_id: str | None = None,
        origin_server_ts: int | None = None,
    ) -> str:
        """Sends one event; returns its id once it is on disk.

        With `device_id` and `txn_id` (`events.transaction_key`) a repeat returns the first id; state that would not change
        anything returns the id of the event that stands.
        Raises `MatrixError`: M_FORBIDDEN (not allowed, or not in the room: whether there is one is not told), M_TOO_LARGE; see also
        `relating.check`.
        """

        def run(tx: Transaction) -> str:
            if device_id is not None and txn_id is not None:
                known = events.transaction_event(tx, sender, device_id, txn_id)
                if known is not None:
                    return known
            room = self.joined_room(tx, room_id, sender)
            if state_key is not None:
                standing = unchanged(tx, room, sender, event_type, state_key, content)
                if standing is not None:
                    return standing
            relating.check(tx, room.number, sender, event_type, content)
            written = self.compose(
                tx,
                room,
                sender,
                event_type,
                content,
                state_key=state_key,
                redacts=redacts,
                origin_server_ts=origin_server_ts,
            )
            return record(tx, written.event, written.number)

        def record(tx: Transaction, event: Event, number: int) -> str:
            if device_id is not None and txn_id is not None:
                events.record_transaction(tx, sender, device_id, txn_id, number)
            return event.event_id

        return await self.write(room_id, sender, run, record)

    async def write(
        self, room_id: str, sender: str, work: Callable[[Transaction], T], placed: Callable[[Transaction, Event, int], T]
    ) -> T:
        """Carries out `work`, which composes one event of that sender, in a write transaction; if the room's policy server has to
        sign that event first, it is asked and the event placed afterwards, with `placed`. Raises `MatrixError`.
        """
        if self._policy is None:
            return await self._db.write(work)
        return await self._policy.write(f"{room_id} {sender}", work, placed)

    async def signed_by_policy(self, room_id: str, event: Event) -> Event:
        """A drafted event with the signature of the room's policy server, if it needs one. Raises `MatrixError`."""
        return event if self._policy is None else await self._policy.signed(room_id, event)

    def joined_room(self, tx: Transaction, room_id: str, sender: str) -> Room:
        """The room, if the sender is in it. Raises M_FORBIDDEN."""
        room = rooms.get(tx, room_id)
        membership = None if room is None else rooms.membership(tx, sender, room.number)
        if room is None or room.snapshot is None or membership is None or membership.membership != "join":
            raise errors.Forbidden(f"You are not in the room {room_id}.")
        return room

    def compose(
        self,
        tx: Transaction,
        room: Room,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
        redacts: str | None = None,
        origin_server_ts: int | None = None,
        deliver: bool = True,
    ) -> PersistedEvent:
        """Makes and writes one event after the room's heads. Raises M_FORBIDDEN or M_TOO_LARGE, and `Unsigned` for an event that the
        room's policy server has to sign first: see `write`.
        """
        event, cited = self.draft(
            tx, room, sender, event_type, content, state_key=state_key, redacts=redacts, origin_server_ts=origin_server_ts
        )
        self.authorise(tx, room, event)
        if self._policy is not None:
            self._policy.hold(tx, room, event)
        placement = self._placement(tx, room, event, cited)
        return self._persister.persist(tx, room, event, placement, deliver=deliver)

    def _placement(self, tx: Transaction, room: Room, event: Event, cited: Sequence[str]) -> Placement:
        """After the heads that the event cites; with others left, neither state is the room's present one. Raises M_FORBIDDEN."""
        assert room.snapshot is not None
        left = [head for head in room.heads if head not in cited]
        if not left:
            return Placement(before=room.snapshot, heads=(event.event_id,))
        before = state_at.written(tx, room.number, self._state_after(tx, room, cited))
        wanted = [CREATE, *auth_types_of(event)]
        verdict = auth.check(event, auth_state(tx, event, before, wanted, is_partial=room.is_partial))
        if not isinstance(verdict, Accepted):
            raise errors.Forbidden(f"The room does not allow it: {verdict.why}.")
        ours: state_at.State = before
        if event.state_key is not None:
            number = self._persister.outlier(tx, room.number, event, Standing.ACCEPTED)
            ours = state_at.with_event(before, (event.type, event.state_key), number)
        current = state_at.resolved(tx, room.rules, [*events.afters(tx, room.number, left).values(), ours])
        return Placement(before=before, heads=(*left, event.event_id), current=state_at.written(tx, room.number, current))

    def _state_after(self, tx: Transaction, room: Room, cited: Sequence[str]) -> state_at.State:
        """The state after some of the heads: the room's, if it is all of them."""
        assert room.snapshot is not None
        if set(cited) == set(room.heads):
            return room.snapshot
        return state_at.resolved(tx, room.rules, list(events.afters(tx, room.number, cited).values()))

    def draft(
        self,
        tx: Transaction,
        room: Room,
        sender: str,
        event_type: str,
        content: Mapping[str, Any],
        *,
        state_key: str | None = None,
        redacts: str | None = None,
        origin_server_ts: int | None = None,
    ) -> tuple[Event, tuple[str, ...]]:
        """A signed event after the room's heads, not yet authorised or written; and the heads that it cites."""
        assert room.snapshot is not None
        heads = events.stated_depths(tx, room.heads)
        cited = tuple(sorted(heads, key=lambda head: -heads[head])[:MAX_PREV_EVENTS])
        wanted = auth_types_for(room.rules, event_type, state_key, sender, content)
        numbers = list(state_at.numbers(tx, self._state_after(tx, room, cited), wanted).values())
        ids = events.ids_by_number(tx, numbers)
        proto = template(
            room.rules,
            room_id=room.room_id,
            sender=sender,
            event_type=event_type,
            content=content,
            state_key=state_key,
            redacts=redacts,
            prev_events=_references(tx, room.rules, cited),
            auth_events=_references(tx, room.rules, [ids[number] for number in numbers]),
            depth=depth_after(heads.values(), room.rules),
            origin_server_ts=self._now_ms() if origin_server_ts is None else origin_server_ts,
        )
        return complete(proto, room.rules, self._server_name, self._key), cited

    def authorise(self, tx: Transaction, room: Room, event: Event) -> None:
        """Holds a draft to the room's current state. Raises M_FORBIDDEN."""
        assert room.snapshot is not None
        wanted = [CREATE, *auth_types_for(event.rules, event.type, event.state_key, event.sender, event.content)]
        known = state_at.events_at(tx, room.snapshot, wanted)
        verdict = auth.check(event, known)
        if not isinstance(verdict, Accepted):
            raise errors.Forbidden(f"The room does not allow it: {verdict.why}.")
        if event.redacts is not None:
            _check_redaction(tx, event, event.redacts, PowerLevels(event.rules, known.get(CREATE), known.get(POWER_LEVELS)))


def _references(tx: Transaction, rules: RoomVersion, event_ids: Sequence[str]) -> list[Any]:
    """How an event of ours refers to these, which are held."""
    if not rules.events_name_themselves:
        return list(event_ids)
    found = events.many(tx, event_ids)
    return references(found[event_id].event for event_id in event_ids)


def _check_redaction(tx: Transaction, event: Event, redacts: str, levels: PowerLevels) -> None:
    """Our users redact their own events, or with the redact level anybody's (client-server API, "Redactions").

    The auth rules do not say so: between servers any user of the same server may redact. Raises M_FORBIDDEN.
    """
    target = events.get(tx, redacts)
    if target is not None and target.event.room_id != event.room_id:
        raise errors.Forbidden("The event to redact is of another room.")
    if target is not None and target.event.type == CREATE[0]:
        raise errors.Forbidden("The event that made the room cannot be redacted.")
    is_own = target is not None and target.event.sender == event.sender
    if not is_own and levels.user(event.sender) < levels.redact:
        raise errors.Forbidden("You may redact only your own events in this room.")


def unchanged(
    tx: Transaction, room: Room, sender: str, event_type: str, state_key: str, content: Mapping[str, Any]
) -> str | None:
    """The id of the state event that stands, if the same sender has said exactly this already."""
    if room.snapshot is None:
        return None
    stored = state.lookup_event(tx, room.snapshot, event_type, state_key)
    if stored is None or stored.event.sender != sender or stored.event.content != content:
        return None
    return stored.event.event_id
