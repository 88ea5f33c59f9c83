"""Every event crosses unchanged, however the stream is cut; nothing malformed does more than a FeedError."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import FeedError
from proxy.exchange import Exchange, LossReason, Lost, Order, Outcome, Phase, Sampled, ServedBy
from proxy.feed import wire
from proxy.settings import FeedSettings

BOUND = 1 << 20
texts = st.one_of(st.text(max_size=40), st.text(st.characters(categories=["Cs", "L"]), max_size=8))
numbers = st.floats(allow_nan=False)
sequences = st.integers(0, 2**64 - 1)
headers = st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=40)), max_size=5).map(tuple)
sampled = st.builds(Sampled, texts, texts, sequences, numbers)
lost = st.builds(Lost, texts, texts, sequences, st.sampled_from(LossReason))
exchanges = st.builds(
    Exchange,
    id=texts,
    worker=texts,
    sequence=sequences,
    at_unix_s=numbers,
    method=texts,
    target=texts,
    request_headers=headers,
    request_body=st.binary(max_size=300),
    status=st.integers(0, 65_535),
    response_headers=headers,
    response_body=st.binary(max_size=300),
    outcome=st.sampled_from(Outcome),
    first_byte_s=st.none() | numbers,
    duration_s=numbers,
    served_by=st.sampled_from(ServedBy),
)
orders = st.builds(
    Order, st.integers(0, 1_000_000).map(lambda n: n / 1_000_000), st.sampled_from(Phase), st.integers(0, 255)
)
hellos = st.builds(wire.Hello, texts, st.integers(0, 2**32 - 1))
stats = st.builds(wire.Stats, st.dictionaries(st.text(max_size=9), st.integers(-(2**53), 2**53) | st.text(max_size=9)))
messages = st.one_of(sampled, lost, exchanges, hellos, stats)


def framed(message: wire.Message) -> bytes:
    return b"".join(wire.encode(message))


def drain(reader: wire.FrameReader) -> list[wire.Message]:
    found = []
    while (message := reader.next()) is not None:
        found.append(message)
    return found


@given(st.lists(messages, max_size=6), st.lists(st.integers(1, 97), min_size=1, max_size=9))
def test_every_message_crosses_unchanged_however_the_stream_is_cut(sent: list[wire.Message], cuts: list[int]) -> None:
    stream = b"".join(map(framed, sent))
    reader, received, at, turn = wire.FrameReader(BOUND), [], 0, 0
    while at < len(stream):
        step = cuts[turn % len(cuts)]
        reader.feed(stream[at : at + step])
        received += drain(reader)
        at, turn = at + step, turn + 1
    assert received == sent


@given(st.binary(max_size=400))
def test_arbitrary_bytes_are_messages_or_a_feed_error(data: bytes) -> None:
    reader = wire.FrameReader(BOUND)
    reader.feed(data)
    try:
        drain(reader)
    except FeedError:
        pass


@given(messages, st.data())
def test_a_damaged_frame_is_a_message_or_a_feed_error(message: wire.Message, data: st.DataObject) -> None:
    frame = bytearray(framed(message))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(4, len(frame) - 1))] = data.draw(st.integers(0, 255))
    reader = wire.FrameReader(BOUND)
    reader.feed(bytes(frame))
    try:
        drain(reader)
    except FeedError:
        pass


@given(messages, st.data())
def test_a_frame_whose_payload_is_cut_or_padded_is_refused(message: wire.Message, data: st.DataObject) -> None:
    frame = framed(message)
    payload = frame[5:]
    if data.draw(st.booleans()) and payload:
        payload = payload[: data.draw(st.integers(0, len(payload) - 1))]
    else:
        payload += data.draw(st.binary(min_size=1, max_size=9).filter(bytes.strip))
    with pytest.raises(FeedError):
        wire.decode(frame[4], memoryview(payload))


@pytest.mark.parametrize("kind", [0, 6, 255])
def test_an_unknown_kind_is_refused(kind: int) -> None:
    reader = wire.FrameReader(BOUND)
    reader.feed(struct.pack("!IB", 1, kind))
    with pytest.raises(FeedError):
        reader.next()


@pytest.mark.parametrize("length", [0, BOUND + 1, 2**32 - 1])
def test_a_frame_without_content_or_past_the_bound_is_refused_before_it_is_read(length: int) -> None:
    reader = wire.FrameReader(BOUND)
    reader.feed(struct.pack("!IB", length, 3))
    with pytest.raises(FeedError, match="bound"):
        reader.next()


def test_a_frame_of_exactly_the_bound_crosses() -> None:
    message = Sampled("id", "w", 1, 0.0)
    frame = framed(message)
    reader = wire.FrameReader(len(frame) - 4)
    reader.feed(frame)
    assert reader.next() == message


def test_a_hello_of_another_protocol_names_both() -> None:
    frame = bytearray(framed(wire.Hello("w", 1)))
    frame[5:9] = struct.pack("!I", 7)
    reader = wire.FrameReader(BOUND)
    reader.feed(bytes(frame))
    with pytest.raises(FeedError, match="protocol 7, this monitor 2"):
        reader.next()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"3"])
def test_stats_that_are_no_json_object_are_refused(body: bytes) -> None:
    with pytest.raises(FeedError):
        wire.decode(wire.Kind.STATS, memoryview(body))


@pytest.mark.parametrize("sequence", [-1, 2**64])
def test_a_number_past_its_field_is_a_feed_error(sequence: int) -> None:
    with pytest.raises(FeedError, match="does not fit"):
        wire.encode(Sampled("id", "w", sequence, 0.0))


def test_bodies_are_not_copied() -> None:
    body = b"x" * 100_000
    exchange = Exchange("i", "w", 1, 0.0, "POST", "/", (), body, 200, (), body, Outcome.COMPLETE, None, 1.0)
    assert [part is body for part in wire.encode(exchange)] == [False, True, True]


@given(st.lists(st.binary(max_size=50), max_size=4), st.integers(1, 60))
def test_chunks_are_the_frame_in_pieces_of_at_most_the_size(buffers: list[bytes], size: int) -> None:
    pieces = list(wire.chunks(tuple(buffers), size))
    assert b"".join(pieces) == b"".join(buffers)
    assert all(len(piece) <= size for piece in pieces)


def test_the_frame_bound_follows_the_capture_bounds() -> None:
    settings = FeedSettings(socket=Path("s"), max_request_bytes=1000, max_response_bytes=500)
    body, reply = b"q" * 1000, b"r" * 500
    exchange = Exchange("i", "w", 1, 0.0, "POST", "/", (), body, 200, (), reply, Outcome.COMPLETE, None, 1.0)
    assert len(framed(exchange)) < wire.max_frame_bytes(settings)


@given(st.lists(st.integers(0, 2**63 - 1) | orders, max_size=9))
def test_what_the_monitor_says_is_read_as_it_was_said(said: list[int | Order]) -> None:
    words = b"".join(wire.ACK.pack(word) if isinstance(word, int) else wire.encode_order(word) for word in said)
    assert len(words) == wire.ACK.size * len(said)
    assert list(wire.decode_words(words)) == said


@pytest.mark.parametrize("word", ["8105010000000000", "8009010000000000", "80000100000f4241", "ffffffffffffffff"])
def test_a_word_that_is_neither_is_refused(word: str) -> None:
    with pytest.raises(FeedError):
        list(wire.decode_words(bytes.fromhex(word)))


def test_an_order_past_its_field_is_refused() -> None:
    with pytest.raises(FeedError):
        wire.encode_order(Order(0.5, Phase.STEPPING, 256))
