"""The server-server endpoints as this server calls them, one method each.

Spec: server-server API. Answers are checked for their shape only: what they hold is unverified. Errors are those of
`errors.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlencode

from edgeserver.federation.client import MAX_CHAIN_ANSWER, MAX_PART_OF_STATE, MAX_STATE_ANSWER, Ask
from edgeserver.federation.errors import BadAnswer, PeerError
from edgeserver.federation.multipart import ByteSink, Media, MediaSink, decode_media
from edgeserver.matrix import canonical_json
from edgeserver.matrix.json_lists import JsonList, decode_with_lists
from transports.exchange import Priority

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from edgeserver.federation.client import FederationClient

V1: Final = "/_matrix/federation/v1"
V2: Final = "/_matrix/federation/v2"
JOIN_TIMEOUT: Final = 300.0
POLICY_TIMEOUT: Final = 30.0
"""A person waits for the answer, and a policy server may look into media."""
MAX_POLICY_ANSWER: Final = 65_536
MAX_HIERARCHY: Final = 1024 * 1024

Pdu = dict[str, Any]


def path(prefix: str, *segments: str, **query: str | int | Sequence[str]) -> str:
    """A request target: every segment percent-encoded, the query in the order given, lists as repeated keys."""
    target = "/".join([prefix, *(quote(segment, safe="") for segment in segments)])
    return f"{target}?{urlencode(query, doseq=True, quote_via=quote)}" if query else target


class Calls:
    """Every request that this server makes of others, but for transactions' timing (`sender.py`) and keys
    (`key_fetch.py`).
    """

    def __init__(self, client: FederationClient) -> None:
        self._client = client

    # Transactions and version

    async def send(self, server: str, txn_id: str, transaction: Mapping[str, Any], *, priority: Priority) -> dict[str, Any]:
        """PUT /send/{txnId}: the answer's `pdus`, event id → {} or {error}."""
        ask = Ask("PUT", path(V1 + "/send", txn_id), transaction, priority, timeout=90.0, expected=2048)
        answer = (await self._client.json(server, ask)).get("pdus")
        return answer if isinstance(answer, dict) else {}

    async def version(self, server: str) -> dict[str, Any]:
        """GET /version: `{name, version}`."""
        answer = await self._client.json(server, Ask("GET", V1 + "/version", priority=Priority.HISTORY))
        return _dict(server, answer, "server")

    # Membership

    async def make_membership(
        self, server: str, room_id: str, user_id: str, membership: str, versions: Sequence[str]
    ) -> tuple[Pdu, str | None]:
        """GET /make_join, /make_leave or /make_knock: the event's template and the room version (None: not told, so
        "1").
        """
        query: dict[str, Sequence[str]] = {} if membership == "leave" else {"ver": versions}
        target = path(f"{V1}/make_{membership}", room_id, user_id, **query)
        answer = await self._client.json(server, Ask("GET", target, priority=Priority.INTERACTIVE))
        version = answer.get("room_version")
        return _dict(server, answer, "event"), version if isinstance(version, str) else None

    async def send_join(self, server: str, room_id: str, event_id: str, pdu: Pdu, *, omit_members: bool = False) -> dict[str, Any]:
        """PUT /v2/send_join: the whole answer; `state` and `auth_chain` are lists of PDUs that are decoded one by one."""
        query = {"omit_members": "true"} if omit_members else {}
        ask = Ask(
            "PUT",
            path(V2 + "/send_join", room_id, event_id, **query),
            pdu,
            Priority.INTERACTIVE,
            JOIN_TIMEOUT,
            100_000,
            MAX_STATE_ANSWER,
        )
        answer = await self._large_answer(server, ask, "state", "auth_chain")
        _long_list(server, answer, "state")
        _long_list(server, answer, "auth_chain")
        return answer

    async def _large_answer(self, server: str, ask: Ask, *lists: str) -> dict[str, Any]:
        """An answer whose long lists are left undecoded (`JsonList`)."""
        response = await self._client.response(server, ask)
        try:
            return decode_with_lists(response.body, frozenset(lists))
        except canonical_json.CanonicalJSONError as error:
            raise BadAnswer(server, f"the answer to {ask.target} is not a JSON object") from error

    async def send_leave(self, server: str, room_id: str, event_id: str, pdu: Pdu) -> None:
        """PUT /v2/send_leave."""
        await self._client.response(server, Ask("PUT", path(V2 + "/send_leave", room_id, event_id), pdu, Priority.INTERACTIVE))

    async def send_knock(self, server: str, room_id: str, event_id: str, pdu: Pdu) -> list[Any]:
        """PUT /send_knock: `knock_room_state`."""
        target = path(V1 + "/send_knock", room_id, event_id)
        answer = await self._client.json(server, Ask("PUT", target, pdu, Priority.INTERACTIVE))
        state = answer.get("knock_room_state")
        return state if isinstance(state, list) else []

    async def invite(self, server: str, room_id: str, event_id: str, pdu: Pdu, room_version: str, state: Sequence[Pdu]) -> Pdu:
        """PUT /v2/invite, with v1 as the fall-back that the spec asks for (room versions 1 and 2): the
        countersigned event.
        """
        content = {"event": pdu, "room_version": room_version, "invite_room_state": list(state)}
        try:
            ask = Ask("PUT", path(V2 + "/invite", room_id, event_id), content, Priority.INTERACTIVE)
            return _dict(server, await self._client.json(server, ask), "event")
        except PeerError as refusal:
            is_unknown = refusal.status in (400, 404) and refusal.errcode in (
                "M_UNRECOGNIZED",
                "M_UNKNOWN",
                "M_NOT_FOUND",
            )
            if room_version not in ("1", "2") or not is_unknown:
                raise
        old = {**pdu, "unsigned": {**pdu.get("unsigned", {}), "invite_room_state": list(state)}}
        target = path(V1 + "/invite", room_id, event_id)
        return _v1_event(server, await self._v1_answer(server, Ask("PUT", target, old, Priority.INTERACTIVE)))

    async def exchange_third_party_invite(self, server: str, room_id: str, event: Mapping[str, Any]) -> None:
        """PUT /exchange_third_party_invite: has the server make an invite of a partial m.room.member event."""
        target = path(V1 + "/exchange_third_party_invite", room_id)
        await self._client.response(server, Ask("PUT", target, event, Priority.INTERACTIVE))

    async def _v1_answer(self, server: str, ask: Ask) -> Any:
        response = await self._client.response(server, ask)
        try:
            return canonical_json.decode_exact(response.body)
        except canonical_json.CanonicalJSONError as error:
            raise BadAnswer(server, "the answer is not JSON") from error

    # Events

    async def backfill(self, server: str, room_id: str, from_ids: Sequence[str], limit: int) -> list[Any]:
        """GET /backfill: PDUs, the newest first."""
        target = path(V1 + "/backfill", room_id, v=from_ids, limit=limit)
        ask = Ask("GET", target, priority=Priority.HISTORY, expected=1000 * limit)
        return _pdus(server, await self._client.json(server, ask), "pdus")

    async def missing_events(
        self, server: str, room_id: str, earliest: Sequence[str], latest: Sequence[str], limit: int, min_depth: int
    ) -> list[Any]:
        """POST /get_missing_events: PDUs, the oldest first."""
        content = {
            "earliest_events": list(earliest),
            "latest_events": list(latest),
            "limit": limit,
            "min_depth": min_depth,
        }
        ask = Ask("POST", path(V1 + "/get_missing_events", room_id), content, expected=1000 * limit)
        return _pdus(server, await self._client.json(server, ask), "events")

    async def event(self, server: str, event_id: str, *, priority: Priority = Priority.MESSAGE) -> Any:
        """GET /event: the one PDU."""
        ask = Ask("GET", path(V1 + "/event", event_id), priority=priority)
        pdus = _pdus(server, await self._client.json(server, ask), "pdus")
        if len(pdus) != 1:
            raise BadAnswer(server, f"one event was asked for, {len(pdus)} came")
        return pdus[0]

    async def state_ids(
        self, server: str, room_id: str, event_id: str, *, priority: Priority = Priority.MESSAGE
    ) -> tuple[list[str], list[str]]:
        """GET /state_ids: (ids of the state before the event, ids of its auth chain)."""
        target = path(V1 + "/state_ids", room_id, event_id=event_id)
        ask = Ask("GET", target, priority=priority, timeout=120.0, expected=20_000, max_answer=MAX_CHAIN_ANSWER)
        answer = await self._client.json(server, ask)
        return _ids(server, answer, "pdu_ids"), _ids(server, answer, "auth_chain_ids")

    async def state(
        self, server: str, room_id: str, event_id: str, *, priority: Priority = Priority.MESSAGE
    ) -> tuple[Sequence[Any], Sequence[Any]]:
        """GET /state: (the state before the event, its auth chain), PDUs that are decoded one by one."""
        target = path(V1 + "/state", room_id, event_id=event_id)
        ask = Ask("GET", target, priority=priority, timeout=JOIN_TIMEOUT, expected=100_000, max_answer=MAX_PART_OF_STATE)
        answer = await self._large_answer(server, ask, "pdus", "auth_chain")
        return _long_list(server, answer, "pdus"), _long_list(server, answer, "auth_chain")

    async def event_auth(self, server: str, room_id: str, event_id: str) -> list[Any]:
        """GET /event_auth: the event's auth chain."""
        target = path(V1 + "/event_auth", room_id, event_id)
        ask = Ask("GET", target, timeout=120.0, expected=20_000, max_answer=MAX_CHAIN_ANSWER)
        return _pdus(server, await self._client.json(server, ask), "auth_chain")

    async def timestamp_to_event(self, server: str, room_id: str, ts: int, *, backwards: bool) -> tuple[str, int]:
        """GET /timestamp_to_event: (event id, its origin_server_ts in ms)."""
        target = path(V1 + "/timestamp_to_event", room_id, ts=ts, dir="b" if backwards else "f")
        answer = await self._client.json(server, Ask("GET", target, priority=Priority.HISTORY, expected=200))
        event_id, at = answer.get("event_id"), answer.get("origin_server_ts")
        if not isinstance(event_id, str) or type(at) is not int:
            raise BadAnswer(server, "the answer names no event and its time")
        return event_id, at

    # Queries

    async def hierarchy(self, server: str, room_id: str, *, suggested_only: bool) -> dict[str, Any]:
        """GET /hierarchy: `{room, children, inaccessible_children}`."""
        target = path(V1 + "/hierarchy", room_id, suggested_only="true" if suggested_only else "false")
        ask = Ask("GET", target, priority=Priority.INTERACTIVE, timeout=20.0, expected=10_000, max_answer=MAX_HIERARCHY)
        answer = await self._client.json(server, ask)
        _dict(server, answer, "room")
        _pdus(server, answer, "children")
        return answer

    async def directory(self, server: str, alias: str) -> tuple[str, list[str]]:
        """GET /query/directory: (room id, servers that are in the room)."""
        target = path(V1 + "/query/directory", room_alias=alias)
        answer = await self._client.json(server, Ask("GET", target, priority=Priority.INTERACTIVE))
        room_id = answer.get("room_id")
        if not isinstance(room_id, str):
            raise BadAnswer(server, "the answer names no room")
        return room_id, _ids(server, answer, "servers")

    async def profile(self, server: str, user_id: str, field: str | None = None) -> dict[str, Any]:
        """GET /query/profile."""
        query = {"user_id": user_id} if field is None else {"user_id": user_id, "field": field}
        return await self._client.json(server, Ask("GET", path(V1 + "/query/profile", **query), priority=Priority.RECEIPT))

    async def public_rooms(self, server: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """POST /publicRooms: one page of the server's directory."""
        ask = Ask("POST", V1 + "/publicRooms", content, Priority.INTERACTIVE, expected=20_000)
        answer = await self._client.json(server, ask)
        _pdus(server, answer, "chunk")
        return answer

    async def user_devices(self, server: str, user_id: str) -> dict[str, Any]:
        """GET /user/devices."""
        return await self._client.json(server, Ask("GET", path(V1 + "/user/devices", user_id)))

    async def query_keys(self, server: str, device_keys: Mapping[str, Sequence[str]]) -> dict[str, Any]:
        """POST /user/keys/query: the whole answer."""
        return await self._client.json(server, Ask("POST", V1 + "/user/keys/query", {"device_keys": dict(device_keys)}))

    async def claim_keys(self, server: str, one_time_keys: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
        """POST /user/keys/claim: `one_time_keys` of the answer."""
        content = {"one_time_keys": {user: dict(devices) for user, devices in one_time_keys.items()}}
        return _dict(server, await self._client.json(server, Ask("POST", V1 + "/user/keys/claim", content)), "one_time_keys")

    # Policy servers

    async def policy_sign(self, server: str, pdu: Pdu) -> dict[str, Any]:
        """POST /_matrix/policy/v1/sign: server name → key id → signature."""
        ask = Ask("POST", "/_matrix/policy/v1/sign", pdu, Priority.INTERACTIVE, POLICY_TIMEOUT, 512, MAX_POLICY_ANSWER)
        return await self._client.json(server, ask)

    # Media

    async def download(
        self, server: str, media_id: str, *, max_bytes: int, timeout_ms: int = 20_000, into: ByteSink | None = None
    ) -> Media:
        """GET /media/download. At most `max_bytes` (else BadAnswer, or PeerUnreachable), which go `into` where they are wanted."""
        target = path(V1 + "/media/download", media_id, timeout_ms=timeout_ms)
        if into is None:
            return await self._media(server, target, max_bytes)
        sink = MediaSink(into)
        await self._client.response(server, replace(_media_ask(target, max_bytes), sink=sink))
        try:
            return sink.media()
        except ValueError as error:
            raise BadAnswer(server, f"the media is malformed: {error}") from error

    async def thumbnail(
        self, server: str, media_id: str, *, width: int, height: int, method: str, animated: bool = False, max_bytes: int
    ) -> Media:
        """GET /media/thumbnail; `method` is crop or scale."""
        moving = {"animated": "true"} if animated else {}
        target = path(V1 + "/media/thumbnail", media_id, width=width, height=height, method=method, **moving)
        return await self._media(server, target, max_bytes)

    async def _media(self, server: str, target: str, max_bytes: int) -> Media:
        response = await self._client.response(server, _media_ask(target, max_bytes))
        try:
            media = decode_media(response.header("content-type") or "", response.body)
        except ValueError as error:
            raise BadAnswer(server, f"the media is malformed: {error}") from error
        if len(media.body) > max_bytes:
            raise BadAnswer(server, "the media is larger than allowed")
        return media


def _media_ask(target: str, max_bytes: int) -> Ask:
    expected, most = min(max_bytes, 1_000_000), max_bytes + 8192
    return Ask("GET", target, None, Priority.MEDIA, timeout=120.0, expected=expected, max_answer=most)


def _dict(server: str, answer: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = answer.get(name)
    if not isinstance(value, dict):
        raise BadAnswer(server, f"{name} is not an object")
    return value


def _pdus(server: str, answer: Mapping[str, Any], name: str) -> list[Any]:
    value = answer.get(name)
    if not isinstance(value, list):
        raise BadAnswer(server, f"{name} is not a list")
    return value


def _long_list(server: str, answer: Mapping[str, Any], name: str) -> JsonList:
    value = answer.get(name)
    if not isinstance(value, JsonList):
        raise BadAnswer(server, f"{name} is not a list")
    return value


def _ids(server: str, answer: Mapping[str, Any], name: str) -> list[str]:
    return [each for each in _pdus(server, answer, name) if isinstance(each, str)]


def _v1_event(server: str, answer: Any) -> Pdu:
    """Of `[200, {"event": …}]`, the shape that v1 endpoints answer in."""
    if not isinstance(answer, list) or len(answer) != 2 or not isinstance(answer[1], dict):
        raise BadAnswer(server, "the answer is not [200, {…}]")
    return _dict(server, answer[1], "event")
