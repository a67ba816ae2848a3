"""The answering end of CoAP for one peer: whole requests come out, whole answers go in, whatever number of blocks they travel in.

::

    receive / advance ──► Asked(exchange, request, observes)     the request's payload is the whole body
                          Taken(exchange)                        the observer has the last notification whole: the next may come
                          Forgotten(exchange)                    nobody observes any longer
    answer(exchange, …, observe=True) registers the observer, notify(exchange, …) tells it of news

A notification is a CON, and only one is under way to each observer, the fetching of its blocks included: on a resource whose
notifications build on each other (Matrix's /sync) none may be lost or overtaken. Sans-io, as `exchange.Messenger` is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from transports.coap.blockwise import (
    LARGEST,
    MAX_TRANSFERS,
    Allowance,
    Block,
    BlockError,
    Downloads,
    Gap,
    Overflow,
    Part,
    Uploads,
    Whole,
    block,
    block_option,
    piece,
    transfer_key,
)
from transports.coap.exchange import DEFAULTS, Congested, Delivered, Messenger, Parameters, Received, Refused, Undelivered
from transports.coap.message import LENGTHS, Code, Message, Option, Options, Type, recognised, uint, unknown_critical
from transports.coap.observe import DEREGISTER, REGISTER, Observer, Observers
from transports.coap.qblock import MISSING_BLOCKS, BlockReceiver, BlockSender, encode_missing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transports.coap.blockwise import Download, Key

MAX_OPEN = 16
"""Requests of one peer that are being carried out at once, observers apart."""
MAX_BODY = 1024 * 1024
_BUSY_SECONDS = 5
_UNSUPPORTED = frozenset((Option.IF_MATCH, Option.IF_NONE_MATCH, Option.PROXY_URI, Option.PROXY_SCHEME))
_QUICK = frozenset((Option.Q_BLOCK1, Option.Q_BLOCK2))


@dataclass(frozen=True, slots=True)
class Asked:
    """A request with its whole body. `observes`: it is to be answered with `observe=True`, or as any other if it is an error.
    `deregisters`: what it asks for is only not to be told any longer.
    """

    exchange: int
    request: Message
    observes: bool = False
    deregisters: bool = False


@dataclass(frozen=True, slots=True)
class Taken:
    exchange: int


@dataclass(frozen=True, slots=True)
class Forgotten:
    exchange: int


Event = Asked | Taken | Forgotten


@dataclass(slots=True)
class _Open:
    """A request that is being carried out."""

    request: Message
    key: Key
    charged: int
    quick_key: Key | None = None


@dataclass(slots=True)
class _QuickUpload:
    """A request whose blocks come in sets; `answer` once it is known, for who did not hear it."""

    receiver: BlockReceiver
    latest: Message
    expires: float
    extras: Options = ()
    exchange: int | None = None
    answer: tuple[int, Options, bytes] | None = None


@dataclass(slots=True)
class _QuickDownload:
    request: Message
    sender: BlockSender
    exponent: int
    download: Download


class ServerSession:
    """`chance` gives random numbers of 0 … 1. `extra` are further options that are understood: number → shortest and longest value;
    they do not tell the parts of a transfer apart. `largest` is the size exponent of the largest block that the wire likes: answers have
    none larger, and a peer that sends larger ones is asked for such. Without `quick` RFC 9177 is unknown: its timers know no slow wires.
    """

    def __init__(
        self,
        chance: Callable[[], float],
        allowance: Allowance,
        *,
        extra: Mapping[int, tuple[int, int]] | None = None,
        max_body: int = MAX_BODY,
        parameters: Parameters = DEFAULTS,
        largest: int = LARGEST,
        quick: bool = True,
    ) -> None:
        self._largest = largest
        self._chance = chance
        self._allowance = allowance
        self._max_body = max_body
        self._lifetime = parameters.exchange_lifetime
        unsupported = _UNSUPPORTED if quick else _UNSUPPORTED | _QUICK
        self._known = {number: bounds for number, bounds in LENGTHS.items() if number not in unsupported} | dict(extra or {})
        self._without = frozenset(extra or ())
        self._messenger = Messenger(chance, int(chance() * 0xFFFF), parameters)
        self._uploads = Uploads(allowance, max_body, self._lifetime)
        self._downloads = Downloads(allowance, self._lifetime)
        self._observers = Observers()
        self._open: dict[int, _Open] = {}
        self._quick_uploads: dict[Key, _QuickUpload] = {}
        self._quick_downloads: dict[Key, _QuickDownload] = {}
        self._last_exchange = 0

    # — in

    def receive(self, data: bytes, now: float) -> list[Event]:
        """What one datagram brings about."""
        return self._events(self._messenger.receive(data, now), now)

    def advance(self, now: float) -> list[Event]:
        """What the time brings about."""
        found = self._events(self._messenger.advance(now), now)
        self._uploads.expire(now)
        self._downloads.expire(now)
        for observer in self._observers.all():
            if observer.fetching and self._downloads.peek(observer.key) is None:
                found += self._forget(observer)
        self._advance_quick(now)
        return found

    def take(self) -> list[bytes]:
        """The datagrams to send now."""
        return self._messenger.take()

    @property
    def deadline(self) -> float | None:
        """When `advance` is to be called next."""
        times = [self._messenger.deadline, self._uploads.deadline, self._downloads.deadline]
        times += [quick.sender.deadline for quick in self._quick_downloads.values()]
        times += [quick.expires if quick.exchange is not None else quick.receiver.deadline for quick in self._quick_uploads.values()]
        return min((time for time in times if time is not None), default=None)

    def close(self) -> None:
        """Gives back what this peer holds of the common allowance."""
        self._uploads.close()
        self._downloads.close()
        for open_ in self._open.values():
            self._allowance.give(open_.charged)
        for key in list(self._quick_uploads):
            self._drop_quick_upload(key)
        self._open.clear()

    def _events(self, events: list[Received | Delivered | Refused | Undelivered], now: float) -> list[Event]:
        found: list[Event] = []
        for event in events:
            if isinstance(event, Received):
                try:
                    found += self._received(event.message, now)
                except Congested:
                    continue  # as if the datagram had been lost: the peer does not take what it is sent
                continue
            observer = self._observers.by_message(event.message_id)
            if observer is None:
                continue
            observer.message_id = None
            if not isinstance(event, Delivered):
                found += self._forget(observer)
            elif not observer.fetching:
                found.append(Taken(observer.exchange))
        return found

    def _received(self, message: Message, now: float) -> list[Event]:
        if not message.is_request:
            self._messenger.reject(message)
            return []
        if message.code > Code.DELETE:
            self._respond(message, Code.METHOD_NOT_ALLOWED, now)
            return []
        bad = unknown_critical(message.options, self._known)
        if bad is not None:
            if message.type is Type.CON:
                self._respond(message, Code.BAD_OPTION, now, payload=f"option {bad} is not understood".encode())
            else:
                self._messenger.reject(message)
            return []
        message = replace(message, options=recognised(message.options, self._known))
        try:
            return self._request(message, now)
        except BlockError as error:
            self._respond(message, Code.BAD_REQUEST, now, payload=str(error).encode())
            return []

    def _request(self, message: Message, now: float) -> list[Event]:
        key = transfer_key(message, self._without)
        quick = block_option(message, Option.Q_BLOCK1)
        if quick is not None:
            return self._quick_block(message, key, quick, now)
        if message.value(Option.Q_BLOCK2) is not None and self._more_quick_blocks(message, key, now):
            return []
        wanted = block_option(message, Option.BLOCK2)
        if wanted is not None and wanted.number:
            return self._next_block(message, key, wanted, now)
        upload = block_option(message, Option.BLOCK1)
        if upload is None:
            return self._begin(message, key, now)
        outcome = self._uploads.add(key, upload, message.payload, now, self._extras(message))
        taken = ((Option.BLOCK1, replace(upload, exponent=min(upload.exponent, self._largest)).encode()),)
        if isinstance(outcome, Whole):
            return self._begin(self._completed(message, outcome.body, outcome.options), key, now)
        if isinstance(outcome, Part):
            self._respond(message, Code.CONTINUE, now, taken)
        elif isinstance(outcome, Gap):
            self._respond(message, Code.REQUEST_ENTITY_INCOMPLETE, now, taken)
        elif isinstance(outcome, Overflow):
            self._too_large(message, now, taken)
        return []

    def _extras(self, message: Message) -> Options:
        return tuple(option for option in message.options if option[0] in self._without)

    def _completed(self, message: Message, body: bytes, extras: Options) -> Message:
        """The last block's message with the whole body, and with what its first block alone has said."""
        here = {number for number, _ in message.options}
        return replace(message, payload=body, options=(*message.options, *(each for each in extras if each[0] not in here)))

    def _begin(self, message: Message, key: Key, now: float, quick_key: Key | None = None) -> list[Event]:
        """A whole request."""
        charged = len(message.payload) if len(message.payload) > 1 << LARGEST + 4 else 0
        if len(self._open) >= MAX_OPEN or not self._allowance.take(charged):
            self._respond(message, Code.SERVICE_UNAVAILABLE, now, ((Option.MAX_AGE, uint(_BUSY_SECONDS)),))
            return []
        self._last_exchange += 1
        exchange = self._last_exchange
        self._open[exchange] = _Open(message, key, charged, quick_key)
        observe = message.number(Option.OBSERVE) if message.code == Code.GET else None
        found: list[Event] = []
        if observe == REGISTER:
            gone = self._observers.add(Observer(exchange, message, key))
            if gone is not None:
                found += self._forget(gone)
        elif observe == DEREGISTER:
            gone = self._observers.by_token(message.token)
            if gone is not None:
                found += self._forget(gone)
        return [*found, Asked(exchange, message, observe == REGISTER, observe == DEREGISTER)]

    def _forget(self, observer: Observer) -> list[Event]:
        self._observers.remove(observer)
        if observer.message_id is not None:
            self._messenger.withdraw(observer.message_id)
        return [Forgotten(observer.exchange)] if observer.registered else []

    def _next_block(self, message: Message, key: Key, wanted: Block, now: float) -> list[Event]:
        download = self._downloads.get(key, now)
        if download is None:
            self._respond(message, Code.REQUEST_ENTITY_INCOMPLETE, now, payload=b"this answer is not kept any longer")
            return []
        exponent = min(wanted.exponent, self._largest)
        at, part = piece(download.body, wanted.start >> exponent + 4, exponent)
        options = (*download.options, (Option.BLOCK2, at.encode()))
        self._respond(message, download.code, now, options, part)
        if at.more:
            return []
        self._downloads.drop(key)
        observer = self._observers.by_key(key)
        if observer is None:
            return []
        observer.fetching = False
        return [Taken(observer.exchange)] if observer.message_id is None else []

    # — out

    def answer(self, exchange: int, code: int, options: Options, payload: bytes, now: float, *, observe: bool = False) -> None:
        """Answers a request; with `observe`, and if its observer has not gone meanwhile, as the first notification."""
        open_ = self._open.pop(exchange, None)
        if open_ is None:
            return
        self._allowance.give(open_.charged)
        observer = self._observers.by_exchange(exchange)
        if observer is not None and not observe:
            self._observers.remove(observer)
        elif observer is not None:
            options = (*options, (Option.OBSERVE, uint(self._observers.next_sequence())))
            observer.registered = True
        request = open_.request
        upload = request.value(Option.BLOCK1)
        if upload is not None:
            options = (*options, (Option.BLOCK1, upload))
        if open_.quick_key is not None:
            self._quick_answer(open_.quick_key, code, options, payload, now)
            return
        try:
            is_quick = request.value(Option.Q_BLOCK2) is not None and observer is None
            if is_quick and self._quick_download(request, open_.key, code, options, payload, now):
                return
            options, payload, more = self._first_block(request, open_.key, code, options, payload, now)
            message_id = self._messenger.respond(request, code, options, payload, now, confirmable=observe)
        except (Congested, _NoRoom):
            self._unanswered(request, now)
            if observer is not None:
                self._observers.remove(observer)
            return
        if observer is not None:
            observer.message_id, observer.fetching = message_id, more

    def observes(self, exchange: int) -> bool:
        """Whether that request's observer is there and registered."""
        observer = self._observers.by_exchange(exchange)
        return observer is not None and observer.registered

    def is_free(self, exchange: int) -> bool:
        """Whether that observer is there and has all that it was told."""
        observer = self._observers.by_exchange(exchange)
        return observer is not None and observer.registered and observer.message_id is None and not observer.fetching

    def notify(self, exchange: int, code: int, options: Options, payload: bytes, now: float) -> bool:
        """Tells an observer that is free; an error is the last that it hears (RFC 7641 §4.2). False if it could not be told and is
        forgotten.
        """
        observer = self._observers.by_exchange(exchange)
        if observer is None or not self.is_free(exchange):
            return False
        if code >= Code.BAD_REQUEST:
            self._observers.remove(observer)
        else:
            options = (*options, (Option.OBSERVE, uint(self._observers.next_sequence())))
        try:
            options, payload, observer.fetching = self._first_block(observer.request, observer.key, code, options, payload, now)
            observer.message_id = self._messenger.send(code, observer.request.token, options, payload, now)
        except (Congested, _NoRoom):
            self._observers.remove(observer)
            return False
        return True

    def _first_block(
        self, request: Message, key: Key, code: int, options: Options, body: bytes, now: float
    ) -> tuple[Options, bytes, bool]:
        """The options and payload of the message that an answer begins with, and whether the peer has to fetch more."""
        wanted = block_option(request, Option.BLOCK2)
        exponent = self._largest if wanted is None else min(wanted.exponent, self._largest)
        at, part = piece(body, 0, exponent)
        if not at.more:
            return ((*options, (Option.BLOCK2, at.encode())) if wanted is not None else options), part, False
        if request.value(Option.SIZE2) is not None:
            options = (*options, (Option.SIZE2, uint(len(body))))
        options = (*options, (Option.ETAG, _etag(body)))
        # What each further block carries: nothing that was for the first one alone.
        kept = tuple(option for option in options if option[0] not in (Option.OBSERVE, Option.SIZE2, Option.BLOCK1))
        if self._downloads.put(key, code, kept, body, now) is None:
            raise _NoRoom
        return (*options, (Option.BLOCK2, at.encode())), part, True

    def _respond(self, request: Message, code: int, now: float, options: Options = (), payload: bytes = b"") -> None:
        self._messenger.respond(request, code, options, payload, now)

    def _unanswered(self, request: Message, now: float) -> None:
        """There is no room for the answer."""
        try:
            self._respond(request, Code.SERVICE_UNAVAILABLE, now, ((Option.MAX_AGE, uint(_BUSY_SECONDS)),))
        except Congested:
            return

    def _too_large(self, message: Message, now: float, options: Options = ()) -> None:
        self._respond(message, Code.REQUEST_ENTITY_TOO_LARGE, now, (*options, (Option.SIZE1, uint(self._max_body))))

    # — RFC 9177

    def _quick_block(self, message: Message, key: Key, at: Block, now: float) -> list[Event]:
        """One block of a request that comes in sets."""
        upload = self._quick_uploads.get(key)
        if upload is None:
            while len(self._quick_uploads) >= MAX_TRANSFERS:
                self._drop_quick_upload(next(iter(self._quick_uploads)))
            upload = _QuickUpload(BlockReceiver(at.exponent, self._max_body, now), message, now + self._lifetime)
            self._quick_uploads[key] = upload
        upload.latest, upload.expires = message, now + self._lifetime
        upload.extras = upload.extras or self._extras(message)
        self._messenger.acknowledge(message)
        if upload.exchange is not None:
            self._repeat_quick_answer(key, upload, now)
            return []
        if at.start + len(message.payload) > self._max_body or not self._allowance.take(len(message.payload)):
            self._drop_quick_upload(key)
            self._too_large(message, now)
            return []
        if not upload.receiver.add(at, message.payload, now):
            self._allowance.give(len(message.payload))
        body = upload.receiver.body
        if body is not None:
            self._allowance.give(upload.receiver.size)
            upload.receiver.size = 0
            found = self._begin(self._completed(message, body, upload.extras), key, now, key)
            if found:
                upload.exchange = self._last_exchange
            else:
                self._drop_quick_upload(key)
            return found
        onward = upload.receiver.completed_set()
        if onward is not None:
            had = Block(onward - 1, True, at.exponent)
            self._quick_send(message, Code.CONTINUE, ((Option.Q_BLOCK1, had.encode()),), b"", now)
        elif upload.receiver.has_skipped_a_set():
            self._ask_for_missing(key, upload, now)
        return []

    def _ask_for_missing(self, key: Key, upload: _QuickUpload, now: float) -> None:
        if not upload.receiver.asked(now):
            self._drop_quick_upload(key)
            return
        options = ((Option.CONTENT_FORMAT, uint(MISSING_BLOCKS)),)
        payload = encode_missing(upload.receiver.missing())
        self._quick_send(upload.latest, Code.REQUEST_ENTITY_INCOMPLETE, options, payload, now)

    def _quick_send(self, request: Message, code: int, options: Options, payload: bytes, now: float) -> None:
        self._messenger.send(code, request.token, options, payload, now, confirmable=False, probes=False)

    def _drop_quick_upload(self, key: Key) -> None:
        gone = self._quick_uploads.pop(key, None)
        if gone is not None:
            self._allowance.give(gone.receiver.size)

    def _quick_answer(self, key: Key, code: int, options: Options, body: bytes, now: float) -> None:
        upload = self._quick_uploads.get(key)
        if upload is None:
            return
        try:
            if upload.latest.value(Option.Q_BLOCK2) is not None and self._quick_download(upload.latest, key, code, options, body, now):
                upload.answer = (code, options, b"")
                return
            options, body, _ = self._first_block(upload.latest, key, code, options, body, now)
            upload.answer = (code, options, body)
            self._quick_send(upload.latest, code, options, body, now)
        except (Congested, _NoRoom):
            self._drop_quick_upload(key)

    def _repeat_quick_answer(self, key: Key, upload: _QuickUpload, now: float) -> None:
        """The peer repeats a block of a request that has come whole: it has not heard the answer."""
        download = self._quick_downloads.get(key)
        if download is not None:
            download.request = upload.latest
            download.sender.again(range(1))
        elif upload.answer is not None:
            self._quick_send(upload.latest, *upload.answer, now)

    def _quick_download(self, request: Message, key: Key, code: int, options: Options, body: bytes, now: float) -> bool:
        """Begins to send an answer in sets; False if it fits into one message."""
        wanted = block_option(request, Option.Q_BLOCK2)
        exponent = LARGEST if wanted is None else wanted.exponent
        size = 1 << exponent + 4
        if len(body) <= size:
            return False
        download = self._downloads.put(key, code, (*options, (Option.ETAG, _etag(body))), body, now)
        if download is None:
            raise _NoRoom
        # The first block goes as any response does: a peer that was heard out knows of the others and asks for what it lacks.
        first, part = piece(body, 0, exponent)
        self._messenger.respond(request, code, (*download.options, (Option.Q_BLOCK2, first.encode())), part, now)
        sender = BlockSender(-(-len(body) // size), now, self._chance, begin=1)
        self._quick_downloads[key] = _QuickDownload(request, sender, exponent, download)
        self._advance_quick(now)
        return True

    def _more_quick_blocks(self, message: Message, key: Key, now: float) -> bool:
        """Whether the request is about the blocks of an answer that is on its way: "go on" or a list of what is missing."""
        quick = self._quick_downloads.get(key)
        wanted = [block(value) for value in message.values(Option.Q_BLOCK2)]
        if quick is None or (len(wanted) == 1 and wanted[0].number == 0 and wanted[0].more):
            return False
        if self._downloads.get(key, now) is None:
            del self._quick_downloads[key]
            return False
        self._messenger.acknowledge(message)
        quick.request = message
        for each in wanted:
            if each.more:
                quick.sender.from_(each.number, now)
            else:
                quick.sender.again((each.number,))
        self._advance_quick(now)
        return True

    def _advance_quick(self, now: float) -> None:
        for key, quick in list(self._quick_downloads.items()):
            if self._downloads.peek(key) is not quick.download:
                del self._quick_downloads[key]
                continue
            for number in quick.sender.take(now):
                at, part = piece(quick.download.body, number, quick.exponent)
                options = (*quick.download.options, (Option.Q_BLOCK2, at.encode()))
                self._quick_send(quick.request, quick.download.code, options, part, now)
        for key, upload in list(self._quick_uploads.items()):
            if upload.expires <= now:
                self._drop_quick_upload(key)
            elif upload.exchange is None and upload.receiver.deadline <= now:
                self._ask_for_missing(key, upload, now)


class _NoRoom(Exception):
    """The allowance of all transfers is spent."""


def _etag(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:4]
