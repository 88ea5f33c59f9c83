"""Frames: what is on the socket. Pure: bytes in, values out.

    frame         u32 length of what follows, u8 kind, payload; big-endian
    relay sends   one Hello first, then events in order, and Stats whenever it likes
    monitor sends words of 8 bytes, again and again: a u64 with its highest bit clear says how many events of this
                  connection it has taken so far; with it set, the word is an Order

Numbers are fixed structs, everything else is bytes behind a u32 length. Nothing here can run code (no pickle),
and whatever cannot be read, down to a byte too many, is a FeedError.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import orjson

from proxy.errors import FeedError
from proxy.exchange import Exchange, Headers, LossReason, Lost, Order, Outcome, Phase, RelayEvent, Sampled, ServedBy
from proxy.settings import FeedSettings

PROTOCOL = 2  # 2: an exchange says who served it, and orders go to the relay
ACK = struct.Struct("!Q")
_ORDER = struct.Struct("!BBBxI")  # the mark, phase, step, share in millionths: a word, as an acknowledgement is
_ORDER_MARK = 0x80
_MILLION = 1_000_000
_PHASES = tuple(Phase)
_FRAME = struct.Struct("!IB")
_LENGTH = struct.Struct("!I")
_HELLO = struct.Struct("!II")  # protocol, pid
_SAMPLED = struct.Struct("!Qd")  # sequence, at_unix_s
_LOST = struct.Struct("!Q")  # sequence
_EXCHANGE = struct.Struct("!QdHdBdHH")  # sequence, at, status, duration, first byte known, first byte, header counts
_HEAD_ALLOWANCE_BYTES = 1024 * 1024  # *choice*: above any head that relay.max_head_bytes would sanely allow


class Kind(IntEnum):
    """What a frame holds."""

    HELLO = 1
    STATS = 2
    SAMPLED = 3
    EXCHANGE = 4
    LOST = 5


@dataclass(frozen=True, slots=True)
class Hello:
    """Who is speaking. A restarted worker MUST have another name: it counts from 0 again."""

    worker: str
    pid: int


@dataclass(frozen=True, slots=True)
class Stats:
    """A worker's cumulative counts."""

    values: dict[str, Any]


Message: TypeAlias = Hello | Stats | RelayEvent


def max_frame_bytes(settings: FeedSettings) -> int:
    """The largest frame that a relay under these settings may send. Units: bytes."""
    return settings.max_request_bytes + settings.max_response_bytes + _HEAD_ALLOWANCE_BYTES


def encode(message: Message) -> tuple[bytes, ...]:
    """One frame as buffers to be written in order; bodies are passed on uncopied.

    Raises:  FeedError when a number is past its field.
    """
    try:
        kind, head, bodies = _payload(message)
        length = 1 + len(head) + sum(map(len, bodies))
        return (_FRAME.pack(length, kind) + head, *bodies)
    except struct.error as error:
        raise FeedError(f"an event does not fit its frame: {error}") from error


def _payload(message: Message) -> tuple[Kind, bytes, tuple[bytes, ...]]:
    match message:
        case Sampled():
            return Kind.SAMPLED, _SAMPLED.pack(message.sequence, message.at_unix_s) + _name(message), ()
        case Lost():
            return Kind.LOST, _LOST.pack(message.sequence) + _name(message) + _text(message.reason), ()
        case Exchange():
            return _exchange_payload(message)
        case Hello():
            return Kind.HELLO, _HELLO.pack(PROTOCOL, message.pid) + _text(message.worker), ()
        case Stats():
            return Kind.STATS, b"", (orjson.dumps(message.values, option=orjson.OPT_NON_STR_KEYS),)


def _exchange_payload(exchange: Exchange) -> tuple[Kind, bytes, tuple[bytes, ...]]:
    known = exchange.first_byte_s is not None
    head = b"".join(
        (
            _EXCHANGE.pack(
                exchange.sequence,
                exchange.at_unix_s,
                exchange.status,
                exchange.duration_s,
                known,
                exchange.first_byte_s or 0.0,
                len(exchange.request_headers),
                len(exchange.response_headers),
            ),
            _name(exchange),
            _text(exchange.method),
            _text(exchange.target),
            _text(exchange.outcome),
            _text(exchange.served_by),
            *(_sized(part) for header in exchange.request_headers for part in header),
            *(_sized(part) for header in exchange.response_headers for part in header),
            _LENGTH.pack(len(exchange.request_body)),
            _LENGTH.pack(len(exchange.response_body)),
        )
    )
    return Kind.EXCHANGE, head, (exchange.request_body, exchange.response_body)


def _name(event: RelayEvent) -> bytes:
    return _text(event.id) + _text(event.worker)


def _text(text: str) -> bytes:
    # surrogatepass: any str at all can cross, also one that was decoded with surrogateescape.
    return _sized(text.encode("utf-8", "surrogatepass"))


def _sized(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def encode_order(order: Order) -> bytes:
    """One word. Raises: FeedError when a number is past its field."""
    try:
        return _ORDER.pack(_ORDER_MARK, _PHASES.index(order.phase), order.step, round(order.share * _MILLION))
    except struct.error as error:
        raise FeedError(f"an order does not fit its word: {error}") from error


def decode_words(words: bytes) -> Iterator[int | Order]:
    """What the monitor said, word by word: counts of events taken, and orders. Raises: FeedError.

    Shapes:  whole words, each `ACK.size` bytes.
    """
    for start in range(0, len(words), ACK.size):
        if not words[start] & _ORDER_MARK:
            yield ACK.unpack_from(words, start)[0]
            continue
        mark, phase, step, share = _ORDER.unpack_from(words, start)
        if mark != _ORDER_MARK or phase >= len(_PHASES) or share > _MILLION:
            raise FeedError("an order cannot be read")
        yield Order(share / _MILLION, _PHASES[phase], step)


def decode(kind: int, payload: memoryview) -> Message:
    """The value in one frame. Raises: FeedError."""
    cursor = _Cursor(payload)
    try:
        message = _DECODERS[Kind(kind)](cursor)
    except (struct.error, ValueError) as error:  # UnicodeDecodeError, unknown enum member and bad JSON are ValueErrors
        raise FeedError(f"a frame of kind {kind} cannot be read: {type(error).__name__}") from error
    if cursor.offset != len(payload):
        raise FeedError(f"a frame of kind {kind} has {len(payload) - cursor.offset} bytes too many")
    return message


class _Cursor:
    """Reads fields off a payload; a length that runs past the end is a FeedError."""

    __slots__ = ("_payload", "offset")

    def __init__(self, payload: memoryview) -> None:
        self._payload = payload
        self.offset = 0

    def numbers(self, fields: struct.Struct) -> tuple[Any, ...]:
        values = fields.unpack_from(self._payload, self.offset)
        self.offset += fields.size
        return values

    def take(self, length: int) -> bytes:
        end = self.offset + length
        if end > len(self._payload):
            raise FeedError("a length in a frame runs past its end")
        data = bytes(self._payload[self.offset : end])
        self.offset = end
        return data

    def rest(self) -> bytes:
        return self.take(len(self._payload) - self.offset)

    def sized(self) -> bytes:
        return self.take(self.numbers(_LENGTH)[0])

    def text(self) -> str:
        return self.sized().decode("utf-8", "surrogatepass")

    def headers(self, count: int) -> Headers:
        return tuple((self.sized(), self.sized()) for _ in range(count))


def _hello(cursor: _Cursor) -> Hello:
    protocol, pid = cursor.numbers(_HELLO)
    if protocol != PROTOCOL:
        raise FeedError(f"the relay speaks feed protocol {protocol}, this monitor {PROTOCOL}; run one version of both")
    return Hello(cursor.text(), pid)


def _stats(cursor: _Cursor) -> Stats:
    values = orjson.loads(cursor.rest())
    if not isinstance(values, dict):
        raise FeedError("a stats frame holds no JSON object")
    return Stats(values)


def _sampled(cursor: _Cursor) -> Sampled:
    sequence, at_unix_s = cursor.numbers(_SAMPLED)
    return Sampled(cursor.text(), cursor.text(), sequence, at_unix_s)


def _lost(cursor: _Cursor) -> Lost:
    (sequence,) = cursor.numbers(_LOST)
    return Lost(cursor.text(), cursor.text(), sequence, LossReason(cursor.text()))


def _exchange(cursor: _Cursor) -> Exchange:
    sequence, at, status, duration, known, first_byte, n_request, n_response = cursor.numbers(_EXCHANGE)
    id, worker, method, target = (cursor.text() for _ in range(4))
    outcome, served_by = Outcome(cursor.text()), ServedBy(cursor.text())
    request_headers, response_headers = cursor.headers(n_request), cursor.headers(n_response)
    (request_length,), (response_length,) = cursor.numbers(_LENGTH), cursor.numbers(_LENGTH)
    return Exchange(
        id=id,
        worker=worker,
        sequence=sequence,
        at_unix_s=at,
        method=method,
        target=target,
        request_headers=request_headers,
        request_body=cursor.take(request_length),
        status=status,
        response_headers=response_headers,
        response_body=cursor.take(response_length),
        outcome=outcome,
        first_byte_s=first_byte if known else None,
        duration_s=duration,
        served_by=served_by,
    )


_DECODERS: dict[Kind, Callable[[_Cursor], Message]] = {
    Kind.HELLO: _hello,
    Kind.STATS: _stats,
    Kind.SAMPLED: _sampled,
    Kind.EXCHANGE: _exchange,
    Kind.LOST: _lost,
}


class FrameReader:
    """Cuts a byte stream into messages. Holds at most one frame and what came with its last bytes."""

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._buffer = bytearray()
        self._start = 0

    def feed(self, data: bytes) -> None:
        """Takes what arrived."""
        self._buffer += data

    def next(self) -> Message | None:
        """The next whole message, or None until more arrives. Raises: FeedError; the stream is then of no use."""
        if len(self._buffer) - self._start < _FRAME.size:
            self._compact()
            return None
        length, kind = _FRAME.unpack_from(self._buffer, self._start)
        if not 1 <= length <= self._max_frame_bytes:
            raise FeedError(f"a frame of {length} bytes; the bound is {self._max_frame_bytes}")
        begin, end = self._start + _FRAME.size, self._start + _LENGTH.size + length
        if end > len(self._buffer):
            self._compact()
            return None
        with memoryview(self._buffer) as whole, whole[begin:end] as payload:
            message = decode(kind, payload)
        self._start = end
        return message

    def _compact(self) -> None:
        # Only when no frame is whole: then little is left to move, however many frames one read brought.
        del self._buffer[: self._start]
        self._start = 0


def chunks(buffers: tuple[bytes, ...], size: int) -> Iterator[bytes | memoryview]:
    """A frame in pieces of at most `size` bytes; a small frame in one piece, copied. Units: bytes."""
    if sum(map(len, buffers)) <= size:
        yield b"".join(buffers)
        return
    for buffer in buffers:
        view = memoryview(buffer)
        for start in range(0, len(view), size):
            yield view[start : start + size]
