"""The coin: stable, salted, nested, and of the stated rate."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sampling import Sampler

IDS = [f"id-{number}" for number in range(20_000)]


def sampler(rate: float = 0.5, large: float = 0.5, salt: bytes = b"salt") -> Sampler:
    return Sampler(salt, rate, large, 1000)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.5, 0.9])
def test_share_is_the_rate(rate: float) -> None:
    share = sum(sampler(rate).decide(name, 0) for name in IDS) / len(IDS)
    assert abs(share - rate) < 5 * (rate * (1 - rate) / len(IDS)) ** 0.5


def test_fractions_are_uniform() -> None:
    counts = [0] * 10
    for name in IDS:
        counts[int(sampler().fraction(name) * 10)] += 1
    assert sum((count - 2000) ** 2 / 2000 for count in counts) < 30  # chi-square, 9 degrees: p about 4e-4


def test_zero_is_never_and_one_is_always() -> None:
    assert not any(sampler(0.0, 1.0).decide(name, 0) for name in IDS[:1000])
    assert all(sampler(1.0, 0.0).decide(name, 0) for name in IDS[:1000])


def test_large_bodies_have_their_own_rate() -> None:
    split = sampler(1.0, 0.0)
    assert split.decide("x", 1000)
    assert not split.decide("x", 1001)


@given(st.text(max_size=40), st.floats(0, 1), st.floats(0, 1))
def test_samples_are_nested(name: str, one: float, two: float) -> None:
    low, high = sorted((one, two))
    assert not sampler(low).decide(name, 0) or sampler(high).decide(name, 0)
    assert 0.0 <= sampler().fraction(name) < 1.0


def test_salts_are_independent() -> None:
    both = sum(sampler(salt=b"a").decide(name, 0) and sampler(salt=b"b").decide(name, 0) for name in IDS)
    assert abs(both / len(IDS) - 0.25) < 0.02


@pytest.mark.parametrize("salt", [b"", b"x" * 64, b"x" * 65, bytes(1000)])
def test_any_salt_is_taken(salt: bytes) -> None:
    assert 0.0 <= sampler(salt=salt).fraction("x") < 1.0


def test_long_salts_differ_past_the_64th_byte() -> None:
    assert sampler(salt=b"x" * 64 + b"a").fraction("x") != sampler(salt=b"x" * 64 + b"b").fraction("x")


def test_another_process_decides_the_same() -> None:
    code = "from proxy.sampling import Sampler; print(Sampler(b'salt', .5, .5, 1).fraction('some-id'))"
    other = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert float(other.stdout) == sampler().fraction("some-id")


def test_the_number_is_pinned() -> None:
    # Changing the hash would silently change who is sampled across a rolling update.
    assert sampler().fraction("some-id") == pytest.approx(PINNED, abs=1e-15)


PINNED = 0.616392494438452
