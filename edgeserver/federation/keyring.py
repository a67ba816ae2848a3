"""The keyring: whose signature is whose.

Where a key comes from, in this order:

1. The name itself: a self-certifying name states its server's key. Nothing is fetched, nothing is stored, and no
   other key counts.
2. Pins: the key of a paired box with a domain of its own.
3. The store, while the key is valid for what is asked.
4. The server itself, over a way that proves it (TLS, or its own link): believed, also when its keys have changed;
   but a pinned key only gives way to one that it has signed.
5. A gateway or notary: believed at first sight and then pinned: a change that none of the old keys has signed is
   refused.
6. Servers of a room, where a key is wanted for an event of it that its author's server is not there to prove: believed as
   under 5, but only where two of them tell the same. Whoever hands us an event must not be alone in vouching for it.

Lookups of servers of which nothing is known, at the word of others, are counted: see `lookups.py`.

Validity (spec: rooms/v5, "Signing key validity period"): an event of room version 5 or later needs a key that was
valid at its `origin_server_ts`. A box that does not know the time cannot tell, so as long as `clock_trusted()` is
False nothing is refused for validity alone.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

import trio

from edgeserver.federation import key_response
from edgeserver.federation.key_response import FOREVER, MAX_VALIDITY_MS, KeyResponse, is_signed_by_any
from edgeserver.federation.lookups import UNPROVEN, Lookups
from edgeserver.matrix import canonical_json, pdu_checks, server_names, signatures
from edgeserver.matrix.signatures import SignatureError
from edgeserver.matrix.verdicts import Dropped, Unready
from edgeserver.rooms.seldom import Seldom
from edgeserver.store import server_keys
from edgeserver.store.server_keys import FROM_ITSELF, PINNED, THROUGH_NOTARY, StoredKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Any

    from edgeserver.federation.key_response import OldKey
    from edgeserver.matrix.event import Event
    from edgeserver.matrix.signatures import SigningKey
    from edgeserver.store.database import Database, Transaction

log = logging.getLogger(__name__)

FIRST_BACKOFF: Final = 30.0
MAX_BACKOFF: Final = 3600.0
MAX_CACHED: Final = 1024
EVENTS_A_TURN: Final = 50

Wanted = tuple[str, str, int]
"""(server name, key id, time in ms at which the key must have been valid; 0: whenever)"""


class Fetcher(Protocol):
    """What brings key responses; see `key_fetch.KeyFetcher`."""

    async def fetch(
        self, servers: Iterable[str], *, witnesses: Sequence[str] = (), hurried: bool = False
    ) -> dict[str, tuple[KeyResponse, bool]]:
        """The responses that could be had, each with whether the way itself proved whose it is.

        `witnesses` are servers to ask, too; `hurried`: these are strangers, on whom no time is to be lost.
        """
        ...


class Keyring:
    """Finds keys and verifies by them. One fetch at a time for a server, and a growing pause after each that failed."""

    def __init__(
        self,
        db: Database,
        fetcher: Fetcher,
        *,
        server_name: str,
        key: SigningKey,
        old_keys: Sequence[OldKey] = (),
        now_ms: Callable[[], int],
        clock_trusted: Callable[[], bool],
    ) -> None:
        self._db = db
        self._fetcher = fetcher
        self._server_name = server_name
        self._now_ms = now_ms
        self._clock_trusted = clock_trusted
        self._key = key
        self._old_keys = tuple(old_keys)
        self._own = {key.key_id: StoredKey(key.key_id, key.verify_key, FOREVER, PINNED)}
        self._own |= {old.key_id: StoredKey(old.key_id, old.verify_key, old.expired_ts, PINNED) for old in old_keys}
        self._cache: dict[str, dict[str, StoredKey]] = {}
        self._fetching: dict[str, trio.Event] = {}
        self._pause: dict[str, tuple[int, float]] = {}
        self._lookups = Lookups()
        self._seldom = Seldom(log)

    def own_response(self) -> dict[str, Any]:
        """Our own key response, freshly signed."""
        return key_response.write(self._server_name, self._key, self._old_keys, self._now_ms())

    def sign(self, obj: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of a JSON object with our signature added."""
        return signatures.sign_json(obj, self._server_name, self._key)

    async def refresh(self, servers: Iterable[str]) -> None:
        """Fetch the key responses of these servers anew (for a notary), within the pauses that each has."""
        await self._fetch({name for name in servers if name != self._server_name})

    async def pin(self, server_name: str, key_id: str, verify_key: bytes) -> None:
        """The key that a pairing has shown; whatever else was known of that server is forgotten."""

        def store(tx: Transaction) -> None:
            server_keys.forget(tx, server_name)
            server_keys.put(tx, server_name, [StoredKey(key_id, verify_key, FOREVER, PINNED)])

        await self._db.write(store)
        self._cache.pop(server_name, None)
        self._pause.pop(server_name, None)

    def route_returned(self, server_name: str | None) -> None:
        """A way to this server (None: to servers at large) is back: its keys may be fetched at once."""
        if server_name is None:
            self._pause.clear()
        else:
            self._pause.pop(server_name, None)

    async def key(self, server_name: str, key_id: str, at_ms: int | None = None) -> bytes | None:
        """The public key (32 bytes) of that server under that id, valid at that time (None: now), for whoever claims to be it;
        None if it cannot be had.
        """
        at = self._now_ms() if at_ms is None else at_ms
        return (await self.keys([(server_name, key_id, at)], told_by=UNPROVEN)).get((server_name, key_id, at))

    async def keys(
        self, wanted: Iterable[Wanted], *, told_by: str | None = None, witnesses: Sequence[str] = (), in_bulk: bool = False
    ) -> dict[Wanted, bytes]:
        """Those of the wanted keys that are known or could be fetched. `told_by`: at whose word they are wanted (None: our own)."""
        open_wants = set(wanted)
        found: dict[Wanted, bytes] = {}
        await self._take_known(open_wants, found)
        if open_wants:
            servers = {server_name for server_name, _, _ in open_wants if server_names.key_of(server_name) is None}
            await self._fetch(servers - {self._server_name}, told_by=told_by, witnesses=witnesses, in_bulk=in_bulk)
            await self._take_known(open_wants, found, last=not self._clock_trusted())
        return found

    async def verify_json(self, obj: Mapping[str, Any], server_name: str) -> None:
        """Check that a server has signed a JSON object, with a key that is valid now. Raises SignatureError."""
        for key_id in list(signatures.signatures_by(obj, server_name))[: pdu_checks.MAX_KEYS_TRIED]:
            want = (server_name, key_id, self._now_ms())
            key = (await self.keys([want])).get(want)
            if key is not None:
                signatures.verify_json(obj, server_name, key_id, key)
                return
        raise SignatureError(f"no signature of {server_name} by a key that is known")

    async def verify(
        self, events: Sequence[Event], *, told_by: str | None = None, witnesses: Sequence[str] = (), in_bulk: bool = False
    ) -> list[Dropped | None]:
        """For each event None if all the signatures that it needs hold, else the reason why not: `Unready` for want of a key.

        Implements the `Verifier` of `rooms`; keys that are missing are fetched in one batch.
        """
        wants: set[Wanted] = set()
        for event in events:
            wants |= _wants(event)
        keys = await self.keys(wants, told_by=told_by, witnesses=witnesses, in_bulk=in_bulk)
        reasons: list[Dropped | None] = []
        for index, event in enumerate(events):
            own = {(want[0], want[1]): keys[want] for want in _wants(event) if want in keys}
            verdict = pdu_checks.check_signatures(event, own)
            reasons.append(self._told_apart(event, verdict, own) if isinstance(verdict, Dropped) else None)
            if index % EVENTS_A_TURN == EVENTS_A_TURN - 1:
                await trio.lowlevel.checkpoint()
        return reasons

    def _told_apart(self, event: Event, verdict: Dropped, keys: Mapping[tuple[str, str], bytes]) -> Dropped:
        """A verdict on signatures: final, or only for want of keys that their owners, out of reach now, may give another time."""
        for required in pdu_checks.required_signatures(event):
            lacking = [key_id for key_id in required.key_ids if (required.server_name, key_id) not in keys]
            if lacking and len(lacking) == len(required.key_ids) and not self._has_no_more(required.server_name):
                return Unready(f"no key of {required.server_name} could be had")
        return verdict

    def _has_no_more(self, server_name: str) -> bool:
        """Whether all is known that there ever will be of the server's keys. Of others a key may be too new to be known yet."""
        return server_name == self._server_name or server_names.key_of(server_name) is not None or not server_names.is_valid(server_name)

    # Finding

    async def _take_known(self, wants: set[Wanted], found: dict[Wanted, bytes], *, last: bool = False) -> None:
        """Moves what is known from `wants` to `found`; with `last`, keys that are past their validity too."""
        known = await self._known({server_name for server_name, _, _ in wants})
        for want in list(wants):
            server_name, key_id, at = want
            key = known.get(server_name, {}).get(key_id)
            if key is not None and (last or key.valid_until >= at):
                found[want] = key.verify_key
                wants.discard(want)

    async def _known(self, servers: set[str]) -> dict[str, dict[str, StoredKey]]:
        known: dict[str, dict[str, StoredKey]] = {}
        missing = []
        for server_name in servers:
            stated = server_names.key_of(server_name)
            if server_name == self._server_name:
                known[server_name] = self._own
            elif stated is not None:
                key_id = server_names.key_id_of(server_name)
                known[server_name] = {key_id: StoredKey(key_id, stated, FOREVER, PINNED)}
            elif server_name in self._cache:
                known[server_name] = self._cache[server_name]
            else:
                missing.append(server_name)
        if missing:
            loaded = await self._db.read(lambda tx: {name: server_keys.of_server(tx, name) for name in missing})
            known |= loaded
            self._remember(loaded)
        return known

    def _remember(self, loaded: Mapping[str, dict[str, StoredKey]]) -> None:
        for server_name, keys in loaded.items():
            if keys:
                self._cache[server_name] = keys
        while len(self._cache) > MAX_CACHED:
            del self._cache[next(iter(self._cache))]

    # Fetching

    async def _fetch(
        self, servers: set[str], *, told_by: str | None = None, witnesses: Sequence[str] = (), in_bulk: bool = False
    ) -> None:
        now = trio.current_time()
        ours: set[str] = set()
        theirs: list[trio.Event] = []
        strangers = set() if told_by is None else servers - {name for name, keys in (await self._known(servers)).items() if keys}
        for server_name in servers:
            if (fetching := self._fetching.get(server_name)) is not None:
                theirs.append(fetching)
            elif server_names.is_valid(server_name) and self._pause.get(server_name, (0, 0.0))[1] <= now:
                if told_by is None or server_name not in strangers or self._lookups.take(told_by):
                    ours.add(server_name)
                else:
                    self._seldom.say(told_by, "no more keys of strangers are looked up at the word of %s for now", told_by or "strangers")
        parts = [(part, trio.Event()) for part in (ours - strangers, ours & strangers)]  # nobody who is known waits for strangers
        for part, done in parts:
            self._fetching |= dict.fromkeys(part, done)
        async with trio.open_nursery() as nursery:
            for (part, done), hurried in zip(parts, (in_bulk, True), strict=True):
                if part:
                    nursery.start_soon(self._fetch_ours, part, done, witnesses, hurried)
        for fetching in theirs:
            await fetching.wait()

    async def _fetch_ours(self, servers: set[str], done: trio.Event, witnesses: Sequence[str], hurried: bool) -> None:
        try:
            others = [name for name in witnesses if name != self._server_name]
            responses = await self._fetcher.fetch(servers, witnesses=others, hurried=hurried)
            await self._accept(list(responses.values()))
            for server_name in servers - set(responses):
                self._note_failure(server_name)
        finally:
            for server_name in servers:
                del self._fetching[server_name]
            done.set()

    def _note_failure(self, server_name: str) -> None:
        failures = self._pause.get(server_name, (0, 0.0))[0] + 1
        self._pause_after(server_name, failures, min(FIRST_BACKOFF * 2 ** min(failures - 1, 10), MAX_BACKOFF))

    def _pause_after(self, server_name: str, failures: int, pause: float) -> None:
        """No fetch before the pause (seconds) is over; after a success too, for the key that was wanted may not
        have been in it.
        """
        self._pause.pop(server_name, None)
        self._pause[server_name] = (failures, trio.current_time() + pause)
        if len(self._pause) > MAX_CACHED:
            del self._pause[next(iter(self._pause))]

    async def _accept(self, responses: Sequence[tuple[KeyResponse, bool]]) -> None:
        """Stores key responses, each with whether it is proven, in one write; but those that change what may not be changed."""
        if not responses:
            return
        for response, _ in responses:
            self._pause_after(response.server_name, 0, FIRST_BACKOFF)
        stored = await self._db.write(lambda tx: {one.server_name: self._store(tx, one, proven=proven) for one, proven in responses})
        for server_name, keys in stored.items():
            if keys is None:
                log.warning("%s: refused a change of its keys that no old key has signed", server_name)
            else:
                self._cache.pop(server_name, None)
                self._remember({server_name: keys})

    def _store(self, tx: Transaction, response: KeyResponse, *, proven: bool) -> dict[str, StoredKey] | None:
        """The server's keys with these; None if they change what may not be changed."""
        server_name, now = response.server_name, self._now_ms()
        limit = now + MAX_VALIDITY_MS if self._clock_trusted() else FOREVER
        known = server_keys.of_server(tx, server_name)
        if not _may_replace(response, known, proven=proven):
            return None
        if server_names.key_of(server_name) is None:
            server_keys.put(tx, server_name, _merged(response, known, min(response.valid_until, limit), proven=proven))
        server_keys.put_response(tx, server_name, canonical_json.encode(response.raw), now, response.valid_until)
        return server_keys.of_server(tx, server_name)


def _may_replace(response: KeyResponse, known: Mapping[str, StoredKey], *, proven: bool) -> bool:
    """Whether a response may add to or change the known keys: see the module's docstring, 4 and 5."""
    stated = server_names.key_of(response.server_name)
    if stated is not None:
        return is_signed_by_any(response, {server_names.key_id_of(response.server_name): stated})
    pinned = any(key.trust == PINNED for key in known.values())
    if not known or (proven and not pinned):
        return True
    return is_signed_by_any(response, {key.key_id: key.verify_key for key in known.values()})


def _merged(response: KeyResponse, known: Mapping[str, StoredKey], valid_until: int, *, proven: bool) -> list[StoredKey]:
    """The keys to store. What is pinned stays pinned, with what it has signed, and a validity once learnt is not
    shortened.
    """
    trust = max((key.trust for key in known.values()), default=THROUGH_NOTARY)
    trust = max(trust, FROM_ITSELF) if proven else trust
    keys = [StoredKey(key_id, key, expired, trust) for key_id, (key, expired) in response.old.items()]
    for key_id, key in response.current.items():
        before = known.get(key_id)
        learnt = before.valid_until if before is not None and before.verify_key == key else 0
        keys.append(StoredKey(key_id, key, FOREVER if trust == PINNED else max(valid_until, learnt), trust))
    return keys


def _wants(event: Event) -> set[Wanted]:
    at = event.origin_server_ts if event.rules.enforce_key_validity else 0
    return {(required.server_name, key_id, at) for required in pdu_checks.required_signatures(event) for key_id in required.key_ids}
