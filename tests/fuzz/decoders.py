"""Every decoder of bytes that somebody else has written: how to run it, what it may raise, and what right input looks like.

`run` feeds one input to a decoder that has just begun, and swallows only the errors that it declares. `seeds` are right inputs, from
encoders, the shared vectors and the texts of `tests/data`; fuzzers change and cross them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgeserver.federation import multipart
from edgeserver.matrix import canonical_json
from transports import discovery
from transports.coap import blockwise, message, qblock
from transports.coap.client import ClientSession
from transports.coap.server import Asked, ServerSession
from transports.exchange import Priority, Request, Response
from transports.framing import hdlc
from transports.identity import Identity
from transports.link import fragments, pairing, varint
from transports.link.airtime import DutyCycle
from transports.link.fragments import Ack, Credit, Reassembler, Reset, Segment, Violation
from transports.link.rendezvous import Party, Rendezvous
from transports.link.secure import Initiation, Refused, Terms
from transports.link.secure import Response as FirstHeard
from transports.link.wire import LinkStats
from transports.lowband import body as bodies
from transports.lowband import cbor, dictionary, documents, messages, samples, tables, targets
from transports.lowband.fields import FieldError, Reader
from transports.lowband.rangecoder import AdaptiveBit, AdaptiveNumber, BitTree, Decoder, Encoder, RangeCodeError, code_bytes
from transports.lowband.text import TextError, decode_text, encode_text
from transports.msc3079 import mapping

TEXTS = Path(__file__).parent.parent / "data" / "chat_held_out.txt"
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)
JSON = (("content-type", "application/json"),)


@dataclass(frozen=True)
class Target:
    """`memory` is the most in bytes that one input may make the decoder hold at a time; of a `slow` one fewer inputs are tried."""

    run: Callable[[bytes], object]
    seeds: Callable[[], list[bytes]]
    memory: int = 4_000_000
    slow: bool = False


def rows(data: bytes) -> Iterator[bytes]:
    """The input cut into messages, each behind its length in two bytes, so that a fuzzer can make several."""
    at = 0
    while at < len(data):
        stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
        yield data[at + 2 : stop]
        at = stop


def in_rows(*found: bytes) -> bytes:
    return b"".join(len(one).to_bytes(2, "big") + one for one in found)


@cache
def requests() -> tuple[Request, ...]:
    """Some of all kinds that clients and servers make."""
    found = [
        Request("GET", "/_matrix/client/v3/sync?timeout=30000&since=s1", "a.test", (("authorization", "Bearer secret"),)),
        Request("POST", "/_matrix/media/v3/upload", "", (("content-type", "image/png"),), bytes(range(200))),
    ]
    for method, target, body, _ in samples.exchanges(samples.Source())[:14]:
        found.append(Request(method, target, "a.test", JSON, b"" if body is None else json.dumps(body).encode()))
    return tuple(found)


@cache
def texts() -> tuple[str, ...]:
    return tuple(line for line in TEXTS.read_text().splitlines()[::200] if line)[:10]


# ---- links


def framing(data: bytes) -> None:
    decoder = hdlc.Decoder(240)
    for at in range(0, len(data), 7):
        decoder.feed(data[at : at + 7])


def chunks(data: bytes) -> None:
    reassembler = Reassembler(1 << 16)
    with suppress(Violation):
        for frame in rows(data):
            for chunk in fragments.decode(frame):
                match chunk:
                    case Segment():
                        done = reassembler.feed(chunk)
                        if done is not None:
                            reassembler.taken(len(done))
                    case Reset():
                        reassembler.reset(chunk)
                    case _:
                        pass


def chunk_seeds() -> list[bytes]:
    hello = [Segment(0, 0, b"hello", False), Segment(0, 5, b" world", True)]
    segments = [*hello, Segment(1, 0, b"", True), Segment(16_000, 4000, b"x", False)]
    encoded = [fragments.encode_segment(each, last=False) for each in segments]
    control = fragments.encode_credit(1 << 20) + fragments.encode_reset(1, 10) + bytes([fragments.PING, fragments.CLOSE, 0x45, 0x21, 7])
    acknowledged = bytes([fragments.ACK, 0, 9, 3, 1, 2, 2])
    assert fragments.decode(control + acknowledged)
    assert isinstance(fragments.decode(acknowledged)[0], Ack)
    assert isinstance(fragments.decode(control)[0], Credit)
    return [in_rows(b"".join(encoded[:2]), encoded[2], control), in_rows(*encoded), in_rows(acknowledged, control), in_rows(control * 20)]


def handshake(data: bytes) -> None:
    if data:
        with suppress(Refused):
            FirstHeard(BOB, data, b"e" * 32).answer(Terms(1 << 20, 240))
    for key in (BOB.public_key, None):
        with suppress(Refused):
            Initiation(ALICE, key, Terms(1 << 20, 240), b"f" * 32).finish(data)


def handshake_seeds() -> list[bytes]:
    found = []
    for key in (BOB.public_key, None):
        first = Initiation(ALICE, key, Terms(1 << 20, 240, compact=True), b"f" * 32)
        answer, _ = FirstHeard(BOB, first.message, b"e" * 32).answer(Terms(1 << 20, 240, connection_id=b"1234"))
        found += [first.message, answer]
    return found


class Line:
    mtu, bit_rate, ordered, shared, connection_id, keepalive = 240, 2400, True, False, b"", 0.0

    def time_on_air(self, size: int) -> float:
        return size / 240


def meeting() -> tuple[Rendezvous, Rendezvous, list[bytes]]:
    """Two ends whose session is up, and what was said until then."""
    ends, said = [], []
    for identity, key in ((ALICE, BOB.public_key), (BOB, None)):
        party = Party(identity, lambda public_key: "somebody", key)
        ends.append(Rendezvous(party, Line(), duty=DutyCycle(), stats=LinkStats(), random=lambda size: b"r" * size))
        ends[-1].start(0.0)
    alice, bob = ends
    for _ in range(4):
        for here, there in ((alice, bob), (bob, alice)):
            while (frame := here.next_frame(0.0)) is not None:
                said.append(frame)
                there.receive(frame, 0.0)
    return alice, bob, said


def rendezvous(data: bytes) -> None:
    """What a stranger says, to an end with a session."""
    _, bob, _ = meeting()
    for number, frame in enumerate(rows(data)):
        bob.receive(frame, 1.0 + number)
        while bob.next_frame(1.0 + number) is not None:
            pass
        bob.deadline(1.0 + number)
    assert not bob.ups or len(bob.ups) == 1


def sealed(data: bytes) -> None:
    """What a paired peer seals, to an end that is sending."""
    alice, bob, _ = meeting()
    assert alice.session is not None
    assert bob.session is not None
    bob.session.submit(bytes(900), Priority.MEDIA)
    for number, plaintext in enumerate(rows(data)):
        bob.receive(alice.session._channel.seal(plaintext), 1.0 + number)
        while bob.next_frame(1.0 + number) is not None:
            pass
        bob.deadline(1.0 + number)


def pairing_messages(data: bytes) -> None:
    draw = random.Random(1).randbytes
    offer = pairing.Offer("b.test", BOB.public_key, now=0.0, random=draw)
    host, guest = pairing.PairingHost(offer, b"h" * 64, draw), pairing.PairingGuest("a", ALICE.public_key, offer.qr, b"h" * 64, draw)
    for side in (lambda one: host.receive(one, 1.0), guest.receive):
        with suppress(pairing.PairingFailed):
            for one in rows(data):
                side(one)
    with suppress(pairing.PairingFailed):
        pairing.PairingQR.parse(data.decode("utf-8", "replace"))


def pairing_seeds() -> list[bytes]:
    draw = random.Random(1).randbytes
    offer = pairing.Offer("b.test", BOB.public_key, now=0.0, random=draw)
    host, guest = pairing.PairingHost(offer, b"h" * 64, draw), pairing.PairingGuest("a", ALICE.public_key, offer.qr, b"h" * 64, draw)
    answer = host.receive(guest.hello, 1.0)
    proof = guest.receive(answer)
    assert proof is not None
    said = [in_rows(guest.hello, proof), in_rows(answer, host.receive(proof, 1.0)), in_rows(pairing.refusal("no"))]
    return [*said, offer.qr.format().encode()]


def varints(data: bytes) -> None:
    with suppress(varint.Truncated):
        value, at = varint.decode(data, 0)
        assert varint.decode(varint.encode(value), 0)[0] == value
        assert at <= len(data)


# ---- what links carry


def cbor_values(data: bytes) -> None:
    for vocabulary in (cbor.PLAIN, tables.msc3079().vocabulary, tables.extended().vocabulary):
        with suppress(cbor.CborError):
            value = cbor.decode(data, vocabulary)
            assert cbor.decode(cbor.encode(value, vocabulary), vocabulary) == value or value != value
        with suppress(cbor.CborError):
            bodies.to_json(data, vocabulary)


def cbor_seeds() -> list[bytes]:
    found = [
        bytes.fromhex("a21866694d5f554e4b4e4f574e186769736f6d657468696e67"),
        bytes.fromhex(
            "a5026e6d2e726f6f6d2e6d65737361676503a2181b6b48656c6c6f20576f726c64181c666d2e74657874056e21666f6f3a6c6f63616c686f7374067040616c69"
            "63653a6c6f63616c686f737409a26a626f6f6c5f76616c7565f56a6e756c6c5f76616c7565f6"
        ),
    ]
    for request in requests():
        packed = bodies.to_cbor(request.body, tables.extended().vocabulary) if request.body[:1] == b"{" else None
        found += [packed] if packed is not None else []
    return [*found, cbor.encode([1, -1, 2**63, 1.5, "x" * 30, None, True, {"a": [[]]}])]


def link_messages(data: bytes) -> None:
    session = messages.Session(remembers=True)
    session.peer = messages.Session(remembers=True).receive(messages.Session(remembers=True).encode_hello()).__next__()
    with suppress(messages.MessageError, messages.MemoryLost):
        for one in rows(data):
            list(session.receive(one))
    with suppress(messages.MessageError, messages.MemoryLost):
        list(messages.Session().receive(data))


def message_seeds() -> list[bytes]:
    found = []
    for remembers in (True, False):
        one, other = messages.Session(remembers=remembers), messages.Session(remembers=remembers)
        hello = one.encode_hello()
        list(other.receive(hello))
        list(one.receive(other.encode_hello()))
        said = [hello]
        for number, request in enumerate(requests()):
            encoded = one.encode_request(number, request)
            said.append(encoded)
            found.append(encoded)
        said += [
            one.encode_cancel(3),
            one.encode_response(4, Response(200, body=b'{"pos":"1"}'), is_last=False),
            one.encode_failure(messages.Failure(5, messages.FailureCode.FAILED, "why")),
            one.encode_response(6, Response(200, JSON, b'{"event_id":"$x"}'), target="/_matrix/client/v3/sync"),
        ]
        found += [in_rows(*said[at : at + 4]) for at in range(0, len(said), 4)]
    return found


def target_paths(data: bytes) -> None:
    table = tables.extended()
    with suppress(FieldError):
        targets.decode(Reader(data), table.paths, table.vocabulary)


def target_seeds() -> list[bytes]:
    table = tables.extended()
    return [targets.encode(request.target, table.paths, table.vocabulary) for request in requests()]


class Modelled:
    """Texts by the model, as a connection's memory codes them."""

    def code(self, coder, text: str = "") -> str:
        if isinstance(coder, Decoder):
            return decode_text(coder, max_length=4096)
        encode_text(coder, text)
        return text


def link_documents(data: bytes) -> None:
    decoder = documents.Documents(Modelled(), ("body", "content", "type"))
    with suppress(documents.DocumentError):
        for one in rows(data):
            decoder.decode(one)


def document_seeds() -> list[bytes]:
    found = []
    for at in range(0, len(requests()), 3):
        encoder = documents.Documents(Modelled(), ("body", "content", "type"))
        said = [encoder.encode(json.loads(request.body)) for request in requests()[at : at + 3] if request.body[:1] == b"{"]
        found.append(in_rows(*said))
    return found


def range_coded(data: bytes) -> None:
    decoder = Decoder(data)
    number, tree, bit = AdaptiveNumber(1 << 20), BitTree(100), AdaptiveBit()
    with suppress(RangeCodeError):
        for _ in range(50):
            bit.code(decoder)
            tree.code(decoder)
            number.code(decoder)
        code_bytes(decoder, 20)
    assert decoder.excess >= 0


def range_seeds() -> list[bytes]:
    encoder = Encoder()
    number, tree, bit = AdaptiveNumber(1 << 20), BitTree(100), AdaptiveBit()
    for value in range(50):
        bit.code(encoder, value & 1)
        tree.code(encoder, value)
        number.code(encoder, value * value)
    code_bytes(encoder, 20, bytes(20))
    return [encoder.finish()]


def model_texts(data: bytes) -> None:
    with suppress(TextError):
        decode_text(Decoder(data), max_length=4096)
    with suppress(TextError):
        decode_text(Decoder(data), context=texts()[:3], max_length=300)


def text_seeds() -> list[bytes]:
    found = []
    for text in (*texts(), "Добрый вечер", "こんばんは", "\x00\x7f", "x" * 3000):
        encoder = Encoder()
        encode_text(encoder, text)
        found.append(encoder.finish())
    return found


def compressed(data: bytes) -> None:
    shipped = dictionary.shipped()
    for name in (None, *shipped.hashes):
        with suppress(dictionary.CompressionError):
            shipped.decompress(data, name, 1 << 20)


def compressed_seeds() -> list[bytes]:
    shipped = dictionary.shipped()
    return [shipped.compress(request.body, name) for request in requests()[2:8] for name in (None, *shipped.hashes)]


# ---- CoAP


def coap_messages(data: bytes) -> None:
    try:
        decoded = message.decode(data)
    except message.MessageError:
        return
    for option in (message.Option.BLOCK1, message.Option.BLOCK2):
        with suppress(blockwise.BlockError):
            blockwise.block_option(decoded, option)
    blockwise.transfer_key(decoded)
    if decoded.is_request:
        with suppress(mapping.Refused):
            mapping.request_of(decoded, mapping.Memory(version=1))
    elif decoded.is_response:
        with suppress(cbor.CborError):
            mapping.response_from(decoded.code, decoded.options, decoded.payload)


def coap_seeds() -> list[bytes]:
    found = []
    for number, request in enumerate(requests()):
        code, options, payload = mapping.ask_of(request, mapping.Told())
        asked = message.Message(message.Type.CON, code, number, b"tk", options, payload)
        code, options, payload = mapping.message_of(Response(200, JSON, request.body), mapping.Memory(version=1))
        answer = message.Message(message.Type.ACK, code, number, b"tk", options, payload)
        found += [message.encode(asked), message.encode(answer)]
    return found


def blocks(data: bytes) -> None:
    receiver = qblock.BlockReceiver(2, 1 << 16, 0.0)
    uploads = blockwise.Uploads(blockwise.Allowance(1 << 16), 1 << 15, 60.0)
    now = 0.0
    for one in rows(data):
        now += 0.5
        try:
            at = blockwise.block(one[:3])
            uploads.add((at.number % 3, b"", ()), at, one[3:], now)
            receiver.add(at, one[3:], now)
        except blockwise.BlockError:
            continue
        receiver.missing()
        _ = receiver.body, receiver.completed_set, receiver.has_skipped_a_set, receiver.deadline
    with suppress(blockwise.BlockError):
        assert len(qblock.decode_missing(data)) <= 100


def block_seeds() -> list[bytes]:
    found = [blockwise.piece(bytes(300), number, 2) for number in range(5)]
    return [in_rows(*(at.encode().rjust(3, b"\0") + payload for at, payload in found)), bytes([0, 5, 0x18, 40, 0x19, 1, 1])]


def coap_sessions(data: bytes) -> None:
    """Both ends of CoAP: one with a request under way, one that answers whatever it is asked."""
    chance = random.Random(1).random
    for quick in (False, True):
        client, server = ClientSession(chance, quick=quick), ServerSession(chance, blockwise.Allowance(1 << 17), extra=mapping.UNDERSTOOD)
        client.ask(message.Code.POST, ((message.Option.URI_PATH, b"H"),), bytes(3000), 0.0, observe=True)
        now = 0.0
        for one in rows(data):
            now += 1.0
            client.receive(one, now)
            client.advance(now)
            for event in (*server.receive(one, now), *server.advance(now)):
                if isinstance(event, Asked):
                    server.answer(event.exchange, 69, ((message.Option.CONTENT_FORMAT, b"\x3c"),), bytes(3000), now, observe=event.observes)
            assert len(client.take()) + len(server.take()) < 200
            _ = client.deadline, server.deadline
        client.receive(data, now)
        server.receive(data, now)
        server.close()


def coap_session_seeds() -> list[bytes]:
    found = []
    for quick in (False, True):
        chance = random.Random(1).random
        client, server = ClientSession(chance, quick=quick), ServerSession(chance, blockwise.Allowance(1 << 17), extra=mapping.UNDERSTOOD)
        client.ask(message.Code.POST, ((message.Option.URI_PATH, b"H"),), bytes(3000), 0.0)
        said, now = [], 0.0
        for _ in range(12):
            now += 0.5
            for datagram in client.take():
                said.append(datagram)
                for event in server.receive(datagram, now):
                    if isinstance(event, Asked):
                        server.answer(event.exchange, 69, (), bytes(3000), now)
            for datagram in server.take():
                said.append(datagram)
                client.receive(datagram, now)
            client.advance(now)
            server.advance(now)
        found += [in_rows(*said), in_rows(*said[: len(said) // 2])]
    return found


# ---- everything else


def federated_media(data: bytes) -> None:
    content_type, _, body = data.partition(b"\n")
    with suppress(ValueError):
        multipart.decode_media(content_type.decode("latin-1"), body)
    try:
        reader = multipart.MediaReader("multipart/mixed; boundary=xyz")
        for at in range(0, len(data), 11):
            reader.feed(data[at : at + 11])
        reader.finish()
    except ValueError:
        return


def media_seeds() -> list[bytes]:
    plain = b"--xyz\r\nContent-Type: application/json\r\n\r\n{}\r\n--xyz\r\nContent-Type: image/png\r\n\r\nPNG\r\n--xyz--"
    moved = b"--xyz\r\n\r\n{}\r\n--xyz\r\nLocation: https://cdn.test/x\r\n\r\n\r\n--xyz--\r\n"
    return [b'multipart/mixed; boundary="xyz"\n' + plain, plain, moved, b"multipart/mixed;boundary=xyz\n" + moved]


def announcements(data: bytes) -> None:
    found = [*rows(data), b"", b"", b""]
    properties = {b"name": found[0], b"key": found[1]}
    port = int.from_bytes(found[2][:3], "big")
    peer = discovery.parse_peer(properties, [one.decode("latin-1") for one in found[3:]], port)
    assert peer is None or (peer.addresses and len(peer.addresses) <= discovery.MAX_ADDRESSES)


def announcement_seeds() -> list[bytes]:
    key = b"YWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWFhYWE"
    return [in_rows(b"a.test", key, b"\x1f\x48", b"192.168.1.20", b"fe80::1"), in_rows(b"box.mesh:8448", key + b"=", b"\x00\x50", b"::1")]


def json_values(data: bytes) -> None:
    with suppress(canonical_json.CanonicalJSONError):
        canonical_json.decode(data)
    with suppress(canonical_json.CanonicalJSONError):
        canonical_json.decode_exact(data)


TARGETS: dict[str, Target] = {
    "framing": Target(framing, lambda: [hdlc.encode(bytes(range(200))) + hdlc.encode(b"\x55" * 40, flag_stands=True)]),
    "chunks": Target(chunks, chunk_seeds),
    "handshake": Target(handshake, handshake_seeds),
    "rendezvous": Target(rendezvous, lambda: [in_rows(*meeting()[2]), in_rows(b"\x24", b"\x24" + bytes(8))]),
    "sealed": Target(sealed, chunk_seeds),
    "pairing": Target(pairing_messages, pairing_seeds),
    "varint": Target(varints, lambda: [varint.encode(value) for value in (0, 127, 128, 2**40)]),
    "cbor": Target(cbor_values, cbor_seeds),
    "messages": Target(link_messages, message_seeds, memory=24_000_000, slow=True),
    "targets": Target(target_paths, target_seeds),
    "documents": Target(link_documents, document_seeds, slow=True),
    "range coder": Target(range_coded, range_seeds),
    "texts": Target(model_texts, text_seeds, slow=True),
    "zstd": Target(compressed, compressed_seeds, memory=12_000_000),
    "coap": Target(coap_messages, coap_seeds),
    "coap sessions": Target(coap_sessions, coap_session_seeds),
    "blocks": Target(blocks, block_seeds),
    "media": Target(federated_media, media_seeds),
    "announcements": Target(announcements, announcement_seeds),
    "json": Target(json_values, lambda: [request.body for request in requests() if request.body[:1] == b"{"]),
}
