"""POST /_matrix/client/v3/search. Spec: client-server API, "Server Side Search"."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from edgeserver.api.endpoint import endpoint
from edgeserver.matrix import errors, search_text
from edgeserver.rooms import client_view
from edgeserver.rooms.around import around
from edgeserver.rooms.client_view import Viewer
from edgeserver.rooms.event_filter import EventFilter
from edgeserver.rooms.search import Query, window
from edgeserver.rooms.tokens import write_place
from edgeserver.store import state
from edgeserver.users import filters

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from edgeserver.api.endpoint import Call, Route
    from edgeserver.rooms.search import Found, Hit, Indexer
    from edgeserver.store.database import Database, Transaction
    from edgeserver.store.events import StoredEvent

DEFAULT_LIMIT: Final = 10
MAX_LIMIT: Final = 50
DEFAULT_AROUND: Final = 5
MAX_AROUND: Final = 20
MAX_TERM: Final = 512
MAX_TOKEN: Final = 1024
MAX_BODY: Final = 64 * 1024
GROUPS: Final = ("room_id", "sender")
FAR: Final = 2**62


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a page begins: `skipped` hits are passed over of those below `below` (down to `bottom`); `counted` were above."""

    below: int
    bottom: int | None = None
    skipped: int = 0
    counted: int = 0


@dataclass(frozen=True, slots=True)
class _Asked:
    """The criteria of one category. `around` is (events before, events after) or None: no context."""

    query: Query
    limit: int
    around: tuple[int, int] | None
    profiles: bool
    with_state: bool
    groups: tuple[str, ...]


def routes(
    db: Database, indexer: Indexer, ignored: Callable[[Transaction, str], frozenset[str]], now_ms: Callable[[], int]
) -> list[Route]:
    """`ignored` names those whose messages a user does not want to see."""

    async def search(call: Call) -> dict[str, Any]:
        body = await call.json()
        categories = body.get("search_categories")
        if not isinstance(categories, dict):
            raise errors.BadJson("search_categories is not an object.")
        if "room_events" not in categories:
            return {"search_categories": {}}
        asked = _asked(categories["room_events"])
        viewer = Viewer(call.user_id, call.requester.device_id, now_ms())
        token = call.query.get("next_batch") or None
        group, place = (None, _Place(FAR)) if token is None else _parse(token, asked.query)
        if not asked.query.phrases:
            return {"search_categories": {"room_events": {"count": 0, "highlights": [], "results": []}}}
        await indexer.catch_up()
        asked = replace(asked, query=replace(asked.query, group=group))
        if place.below == FAR:
            place = replace(place, below=db.position + 1)

        def read(tx: Transaction) -> dict[str, Any]:
            found = window(tx, viewer.user_id, asked.query, place.below, place.bottom, ignored(tx, viewer.user_id))
            return _answer(tx, asked, place, found, viewer)

        return {"search_categories": {"room_events": await db.read(read)}}

    return endpoint("POST", "/_matrix/client/v3/search", search, rate="search", max_body=MAX_BODY)


# The answer


def _answer(tx: Transaction, asked: _Asked, place: _Place, found: Found, viewer: Viewer) -> dict[str, Any]:
    upto = place.skipped + asked.limit
    page = found.hits[place.skipped : upto]
    answer: dict[str, Any] = {
        "count": place.counted + len(found.hits),
        "highlights": search_text.highlights(asked.query.phrases, [text for hit in page for text in hit.texts]),
        "results": _results(tx, asked, page, viewer),
    }
    following: _Place | None = None
    if upto < len(found.hits):
        following = replace(place, skipped=upto)
    elif found.next is not None:
        following = _Place(found.next, counted=place.counted + len(found.hits))
    if following is not None:
        answer["next_batch"] = _token(asked.query, following, asked.query.group)
    if asked.with_state:
        views = {hit.view.room.room_id: hit.view for hit in page}
        answer["state"] = {
            room_id: client_view.state_events(tx, state.whole_events(tx, view.snapshot).values(), viewer) for room_id, view in views.items()
        }
    if asked.groups:
        answer["groups"] = {key: _groups(asked, key, place, found, page) for key in asked.groups}
    return answer


def _results(tx: Transaction, asked: _Asked, page: Sequence[Hit], viewer: Viewer) -> list[dict[str, Any]]:
    shown = client_view.timeline(tx, [hit.shown for hit in page], viewer)
    results: list[dict[str, Any]] = [{"rank": hit.rank, "result": event} for hit, event in zip(page, shown, strict=True)]
    if asked.around is not None:
        for result, hit in zip(results, page, strict=True):
            result["context"] = _context(tx, asked, hit, viewer)
    return results


def _context(tx: Transaction, asked: _Asked, hit: Hit, viewer: Viewer) -> dict[str, Any]:
    assert asked.around is not None
    near = around(tx, hit.view, hit.shown, *asked.around, viewer.user_id)
    context: dict[str, Any] = {
        "start": write_place(near.start),
        "end": write_place(near.end),
        "events_before": client_view.timeline(tx, near.before, viewer),
        "events_after": client_view.timeline(tx, near.after, viewer),
    }
    if asked.profiles:
        context["profile_info"] = _profiles(tx, hit.shown, [*near.before, hit.shown, *near.after])
    return context


def _profiles(tx: Transaction, stored: StoredEvent, shown: Sequence[StoredEvent]) -> dict[str, dict[str, str]]:
    """The profiles that the senders had in the room when the event was sent."""
    senders = list(dict.fromkeys(one.event.sender for one in shown))
    if stored.after is None:
        return {}
    members = state.lookup_events(tx, stored.after, [("m.room.member", sender) for sender in senders])
    return {
        key[1]: {name: value for name in ("displayname", "avatar_url") if isinstance(value := one.event.content.get(name), str)}
        for key, one in members.items()
    }


def _groups(asked: _Asked, key: str, place: _Place, found: Found, page: Sequence[Hit]) -> dict[str, dict[str, Any]]:
    """The groups of a page. What a group has beyond it is the rest of this window, and what is below it."""
    upto = place.skipped + asked.limit
    groups: dict[str, dict[str, Any]] = {}
    for hit in page:
        value = _value(hit, key)
        group = groups.setdefault(value, {"order": len(groups) + 1, "results": []})
        group["results"].append(hit.shown.event.event_id)
    for value, group in groups.items():
        own = [number for number, hit in enumerate(found.hits) if _value(hit, key) == value]
        passed = sum(number < upto for number in own)
        if asked.query.group in (None, (key, value)) and (passed < len(own) or found.next is not None):
            following = replace(place, bottom=found.next, skipped=passed)
            group["next_batch"] = _token(asked.query, following, (key, value))
    return groups


def _value(hit: Hit, key: str) -> str:
    return hit.shown.event.room_id if key == "room_id" else hit.shown.event.sender


def _token(query: Query, place: _Place, group: tuple[str, str] | None) -> str:
    parts = [query.by_rank, place.below, place.bottom, place.skipped, place.counted, *(group or ())]
    return urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


def _parse(token: str, query: Query) -> tuple[tuple[str, str] | None, _Place]:
    """Raises M_INVALID_PARAM."""
    wrong = errors.InvalidParam("next_batch is no token of this search.")
    if len(token) > MAX_TOKEN or not token.isascii():
        raise wrong
    try:
        parts = orjson.loads(urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    except ValueError as error:
        raise wrong from error
    if not isinstance(parts, list) or len(parts) not in (5, 7) or parts[0] is not query.by_rank:
        raise wrong
    below, bottom, skipped, counted, *group = parts[1:]
    numbers = (below, below if bottom is None else bottom, skipped, counted)
    if not all(type(one) is int and abs(one) <= FAR for one in numbers) or skipped < 0 or counted < 0:
        raise wrong
    if group and not (group[0] in GROUPS and isinstance(group[1], str)):
        raise wrong
    return ((group[0], group[1]) if group else None), _Place(below, bottom, skipped, counted)


# The question


def _asked(criteria: object) -> _Asked:
    """Raises M_BAD_JSON, M_INVALID_PARAM."""
    if not isinstance(criteria, dict):
        raise errors.BadJson("room_events is not an object.")
    term, order = criteria.get("search_term"), criteria.get("order_by", "rank")
    if not isinstance(term, str):
        raise errors.BadJson("search_term is not a string.")
    if len(term) > MAX_TERM:
        raise errors.InvalidParam(f"search_term is longer than {MAX_TERM} characters.")
    if order not in ("rank", "recent"):
        raise errors.InvalidParam("order_by is neither rank nor recent.")
    try:
        phrases = search_text.phrases(term)
    except ValueError as error:
        raise errors.InvalidParam(f"search_term asks for {error}.") from error
    wanted = _filter(criteria.get("filter", {}))
    context = _part(criteria, "event_context")
    near = None
    if context is not None:
        near = (_number(context, "before_limit"), _number(context, "after_limit"))
    return _Asked(
        Query(phrases, _names(criteria.get("keys")), wanted, order == "rank"),
        max(1, min(DEFAULT_LIMIT if wanted.limit is None else wanted.limit, MAX_LIMIT)),
        near,
        context is not None and context.get("include_profile") is True,
        criteria.get("include_state") is True,
        _group_by(_part(criteria, "groupings") or {}),
    )


def _part(criteria: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    part = criteria.get(name)
    if not (part is None or isinstance(part, dict)):
        raise errors.BadJson(f"{name} is not an object.")
    return part


def _names(keys: object) -> list[str]:
    """The columns of the keys that are to be searched."""
    if keys is None:
        keys = list(search_text.COLUMNS)
    if not isinstance(keys, list) or not keys or not all(isinstance(key, str) and key in search_text.COLUMNS for key in keys):
        raise errors.InvalidParam(f"keys is not a list of some of {', '.join(search_text.COLUMNS)}.")
    return [search_text.COLUMNS[key][1] for key in dict.fromkeys(keys)]


def _filter(given: object) -> EventFilter:
    if not isinstance(given, dict):
        raise errors.BadJson("filter is not an object.")
    filters.check({"room": {"timeline": given}})
    return EventFilter.parse(given)


def _number(context: Mapping[str, Any], name: str) -> int:
    value = context.get(name, DEFAULT_AROUND)
    if type(value) is not int or value < 0:
        raise errors.InvalidParam(f"{name} is not a number of events.")
    return min(value, MAX_AROUND)


def _group_by(groupings: Mapping[str, Any]) -> tuple[str, ...]:
    asked = groupings.get("group_by", [])
    if not isinstance(asked, list) or not all(isinstance(one, dict) and one.get("key") in GROUPS for one in asked):
        raise errors.InvalidParam("group_by is not a list of groups by room_id or sender.")
    return tuple(dict.fromkeys(one["key"] for one in asked))
