"""Planted faults: what can go wrong on purpose, how often, and whether it strikes this request.

A fault is decided by a hash of the prompt, so that the same request always meets the same fate, served or replayed,
streamed or whole; `fresh` makes every call roll again.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from backends.scripted.tokens import mix, unit


class Fault(StrEnum):
    """What can be planted. The first group is the model's, the second the server's, the third the socket's."""

    TOOL_NAME = "tool_name"  # another tool's name
    TOOL_ARGUMENT = "tool_argument"  # a wrong value
    TOOL_SYNTAX = "tool_syntax"  # arguments that are no JSON
    TEXT = "text"  # other words from the start
    PHRASE = "phrase"  # another last sentence, by a hair: what a good quantization does now and then
    NEEDLE = "needle"  # what was read in a long prompt comes back wrong
    LOGPROBS = "logprobs"  # a distribution moved far
    TEMPLATE = "template"  # a chat template with a system turn of its own, where the chat brings none
    PROMPT_LOGPROBS = "prompt_logprobs"  # an engine that does not give them
    ERROR_500 = "error_500"
    SLOW = "slow"  # ten times the latency and half a second
    STALL = "stall"  # never answers
    STALL_STREAM = "stall_stream"  # answers half and hangs
    CUT_STREAM = "cut_stream"  # half of the body, then the end of the connection
    RESET = "reset"  # half of the body, then a TCP reset
    CLOSE_IN_HEAD = "close_in_head"
    CLOSE_AT_ONCE = "close_at_once"  # not one byte
    GARBAGE = "garbage"  # bytes that are no HTTP


class FaultPlan:
    """The rates in force, and how often each fault struck. Mutable: tests and the demo plant faults as they go."""

    def __init__(self, rates: Mapping[str, float] | None = None, *, fresh: bool = False) -> None:
        self.fresh = fresh
        self.struck: Counter[str] = Counter()
        self._rates: dict[Fault, float] = {}
        self.update(rates or {})

    @property
    def rates(self) -> dict[str, float]:
        return {str(fault): rate for fault, rate in self._rates.items()}

    def set(self, name: str, rate: float) -> None:
        """One fault's rate; 0 takes it away. Raises: ValueError, with one line for a person."""
        if name not in Fault.__members__.values():
            raise ValueError(f'no fault "{name}"; there are {", ".join(Fault)}')
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0.0 <= rate <= 1.0:
            raise ValueError(f"fault {name}: its rate must be a number from 0 to 1")
        if rate:
            self._rates[Fault(name)] = float(rate)
        else:
            self._rates.pop(Fault(name), None)

    def update(self, rates: Mapping[str, float]) -> None:
        """Several rates, all or none. Raises: ValueError."""
        trial = FaultPlan.__new__(FaultPlan)
        trial._rates = dict(self._rates)
        for name, rate in rates.items():
            trial.set(name, rate)
        self._rates = trial._rates

    def strikes(self, key: int) -> frozenset[Fault]:
        """The faults that this prompt meets; counting is the caller's, when a fault really showed (`struck`)."""
        if not self._rates:
            return frozenset()
        return frozenset(fault for fault, rate in self._rates.items() if self._roll(fault, key) < rate)

    def _roll(self, fault: Fault, key: int) -> float:
        if self.fresh:
            return secrets.randbits(53) * 2.0**-53
        return unit(key ^ mix(int.from_bytes(fault.encode()[:8], "big")))
