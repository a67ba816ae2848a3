"""What events do to users of this server: push rules at work, and the unread counts that follow from them.

Spec: client-server API, "Push Notifications" and "Receiving notifications"; "Ignoring Users". Only counts are stored. What a
receipt in the middle of the unread leaves over is counted anew from the events.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING, Final

from edgeserver.matrix.identifiers import domain_of
from edgeserver.matrix.power_levels import PowerLevels
from edgeserver.matrix.push_defaults import default_ruleset
from edgeserver.matrix.push_evaluation import NOTHING, CompiledRules, PushContext
from edgeserver.matrix.relations import relation_of
from edgeserver.store import account_data, events, receipts, redactions, state, thread_subscriptions, unread
from edgeserver.users.threads import MAIN, thread_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from edgeserver.matrix.event import Event
    from edgeserver.matrix.push_evaluation import Outcome
    from edgeserver.rooms.persist import PersistedEvent
    from edgeserver.store.database import Transaction

CACHED: Final = 256
"""Users whose own rules are kept compiled."""
MAX_RECOUNT: Final = 500
"""So many events after a receipt are counted anew."""
_FAR: Final = 2**62

_PERSONAL = (".m.rule.invite_for_me", ".m.rule.is_user_mention")


@cache
def _shared_rules() -> CompiledRules:
    """The default rules without those that are about one user: the same for all who are not named by the event. Never changed.

    Without thread subscriptions on this box those about them are met by no event.
    """
    ruleset = default_ruleset("", thread_subscriptions=True)
    ruleset["override"] = [rule for rule in ruleset["override"] if rule["rule_id"] not in _PERSONAL]
    return CompiledRules(ruleset, "")


class PushRules:
    """Applies users' push rules to events. One instance stays on one thread."""

    def __init__(self) -> None:
        self._shared = _shared_rules()
        self._compiled: OrderedDict[str, tuple[int, CompiledRules]] = OrderedDict()
        self._ignored: OrderedDict[str, tuple[int, frozenset[str]]] = OrderedDict()

    def outcomes(
        self, tx: Transaction, room: int, event: Event, snapshot: int, user_ids: Sequence[str]
    ) -> dict[str, Outcome]:
        """What the event does to each of the users; those whom it leaves alone are not there.

        `snapshot` is the state of the room by which it is judged.
        """
        users = [user_id for user_id in user_ids if user_id != event.sender]
        if not users or _is_withheld(tx, event):
            return {}
        changed = unread.preferences(tx, users)
        power = _power(tx, event, snapshot, bool(changed))
        subscribers = _subscribers(tx, room, event)
        contexts: dict[bool | None, tuple[PushContext, Outcome]] = {}
        members = unread.member_count(tx, room)
        named = _named(event)
        found: dict[str, Outcome] = {}
        for user_id in users:
            streams = changed.get(user_id, {})
            if event.sender in self._ignored_by(tx, user_id, streams.get("m.ignored_user_list")):
                continue
            rules_at = streams.get(account_data.PUSH_RULES, 0)
            subscribed = None if subscribers is None else user_id in subscribers
            if subscribed not in contexts:
                new = PushContext(event, members, power, subscribed)
                contexts[subscribed] = new, self._shared.actions_for(new, None)
            context, outcome = contexts[subscribed]
            if rules_at or user_id in named:
                rules = self._rules_of(tx, user_id, rules_at)
                name = _display_name(tx, snapshot, user_id) if rules_at else None
                outcome = rules.actions_for(context, name)
            if outcome is not NOTHING:
                found[user_id] = outcome
        return found

    def _rules_of(self, tx: Transaction, user_id: str, stream: int) -> CompiledRules:
        known = self._compiled.pop(user_id, None)
        if known is None or known[0] != stream:
            known = stream, CompiledRules(account_data.ruleset(tx, user_id), user_id)
        self._compiled[user_id] = known
        if len(self._compiled) > CACHED:
            self._compiled.popitem(last=False)
        return known[1]

    def _ignored_by(self, tx: Transaction, user_id: str, stream: int | None) -> frozenset[str]:
        if stream is None:
            return frozenset()
        known = self._ignored.pop(user_id, None)
        if known is None or known[0] != stream:
            known = stream, account_data.ignored_users(tx, user_id)
        self._ignored[user_id] = known
        if len(self._ignored) > CACHED:
            self._ignored.popitem(last=False)
        return known[1]


class UnreadCounts:
    """Keeps the unread counts. `persisted` is a hook of the persister.

    Whoever tells people elsewhere (push gateways) listens: `on_notify(tx, stream, users)` is called with the position of an event and
    whom it notifies, `on_read(tx, user_id)` when a receipt, or an own event, has changed what is unread, both inside the transaction.
    """

    def __init__(self, server_name: str) -> None:
        self._server_name = server_name
        self._rules = PushRules()
        self.on_notify: list[Callable[[Transaction, int, Collection[str]], None]] = []
        self.on_read: list[Callable[[Transaction, str], None]] = []

    def persisted(self, tx: Transaction, written: PersistedEvent) -> None:
        """Counts a new event for the local members of its room whom it notifies."""
        event, room = written.event, written.room.number
        if not written.is_news:
            return
        users = list(written.local_members)
        if _says_read(event) and event.sender in users and unread.clear(tx, room, event.sender, thread_of(tx, event)):
            for listener in self.on_read:
                listener(tx, event.sender)
        invited: str | None = None
        if event.type == "m.room.member" and event.state_key is not None and event.state_key not in users:
            unread.forget(tx, room, event.state_key)
            is_ours = event.content.get("membership") == "invite" and domain_of(event.state_key) == self._server_name
            if is_ours and not account_data.blocks_invites(tx, event.state_key):
                invited = event.state_key
        asked = users if invited is None else [*users, invited]
        outcomes = self._rules.outcomes(tx, room, event, written.snapshot, asked)
        if not outcomes:
            return
        notified = [(user_id, one.highlight) for user_id, one in outcomes.items() if one.notify and user_id != invited]
        if notified:
            unread.add(tx, room, thread_of(tx, event), notified, written.stream or 0)
        notified_users = [user_id for user_id, one in outcomes.items() if one.notify]
        if notified_users and written.stream is not None:
            self.notified(tx, written.stream, notified_users)

    def notified(self, tx: Transaction, stream: int, users: Collection[str]) -> None:
        """Something at this position notifies these users: an event, or an invite to a room that we are not in."""
        for listener in self.on_notify:
            listener(tx, stream, users)

    def read(self, tx: Transaction, room: int, user_id: str, thread: str) -> None:
        """A receipt of the user has moved on, in this thread or ('') in all: counts anew what it leaves unread."""
        counts = unread.of_user(tx, room, user_id)
        threads = [one for one in counts if thread in (receipts.UNTHREADED, one)]
        if not threads:
            return
        read_to = receipts.floors(tx, room, user_id)
        everywhere = read_to.get(receipts.UNTHREADED, -_FAR)
        floors = {one: max(everywhere, read_to.get(one, -_FAR)) for one in threads}
        left = {one: [0, 0] for one in threads}
        lowest = min(floors.values())
        for stored in events.timeline_since(tx, room, lowest, _FAR, MAX_RECOUNT):
            if stored.event.sender == user_id:
                if _says_read(stored.event) and (at := thread_of(tx, stored.event)) in left:
                    left[at] = [0, 0]
                continue
            if stored.after is None:
                continue
            outcome = self._rules.outcomes(tx, room, stored.event, stored.after, [user_id]).get(user_id, NOTHING)
            if not outcome.notify:
                continue
            at = thread_of(tx, stored.event)
            if at in left and (stored.stream or 0) > floors[at]:
                left[at][0] += 1
                left[at][1] += outcome.highlight
        unread.put(tx, room, user_id, {one: unread.Count(*numbers) for one, numbers in left.items()})
        for listener in self.on_read:
            listener(tx, user_id)


def _says_read(event: Event) -> bool:
    """Whether whoever sends this has read what came before it in its thread ("Receiving notifications": a read receipt is updated "by
    sending an event" too). State says nothing of the kind: a new display name is sent to all rooms at once.
    """
    return event.state_key is None


def _is_withheld(tx: Transaction, event: Event) -> bool:
    """Whether it is a redaction that nobody is told of, whatever it mentions."""
    stored = events.get(tx, event.event_id) if event.type == redactions.REDACTION else None
    return stored is not None and bool(redactions.withheld(tx, [stored]))


def _subscribers(tx: Transaction, room: int, event: Event) -> frozenset[str] | None:
    """Who has subscribed to the thread that the event is in; None if it is in none, or this box has no subscriptions."""
    if relation_of(event.content) is None or not thread_subscriptions.are_on(tx):
        return None
    thread = thread_of(tx, event)
    return None if thread == MAIN else thread_subscriptions.subscribers(tx, room, thread)


def _named(event: Event) -> set[str]:
    """Users whom the default rules that are about one user may concern."""
    mentions = event.content.get("m.mentions")
    listed = mentions.get("user_ids") if isinstance(mentions, dict) else None
    named = {one for one in listed if isinstance(one, str)} if isinstance(listed, list) else set()
    if event.type == "m.room.member" and event.state_key is not None:
        named.add(event.state_key)
    return named


def _power(tx: Transaction, event: Event, snapshot: int, own_rules: bool) -> PowerLevels:
    """The room's power levels, read only if a rule may ask for them."""
    mentions = event.content.get("m.mentions")
    if not own_rules and not (isinstance(mentions, dict) and mentions.get("room") is True):
        return PowerLevels(event.rules, None, None)
    create, levels = ("m.room.create", ""), ("m.room.power_levels", "")
    found = {key: stored.event for key, stored in state.lookup_events(tx, snapshot, [create, levels]).items()}
    return PowerLevels(event.rules, found.get(create), found.get(levels))


def _display_name(tx: Transaction, snapshot: int, user_id: str) -> str | None:
    stored = state.lookup_event(tx, snapshot, "m.room.member", user_id)
    name = None if stored is None else stored.event.content.get("displayname")
    return name if isinstance(name, str) else None

