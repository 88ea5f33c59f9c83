"""The values that cross between an engine and the wire. Whatever makes tokens, a reply is written from these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

MAX_TOP = 20  # vLLM's default for --max-logprobs


class Prompted(Protocol):
    """A prompt as token ids; engines add what they need to know of it."""

    @property
    def ids(self) -> Sequence[int]: ...


P = TypeVar("P", bound=Prompted)
P_co = TypeVar("P_co", bound=Prompted, covariant=True)


class Tokenizer(Protocol[P_co]):
    """One engine's tokenizer and chat template. Reading raises `ask.Refused` on what the template cannot take."""

    def chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], body: Mapping[str, Any]
    ) -> P_co:
        """The prompt of a chat; `body` holds what else the request says about the template."""
        ...

    def plain(self, text: str) -> P_co:
        """The prompt of a text."""
        ...

    def given(self, ids: Sequence[int]) -> P_co:
        """The prompt of token ids that the client made."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of tokens, as /detokenize answers."""
        ...

    def written(self, token: int) -> str:
        """How one token is written in a logprob list."""
        ...

    def spelled(self, token: int) -> bytes:
        """The bytes of one token in a logprob list."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """The distribution at one position: the token that is there, its logprob and rank, and the list, best first."""

    token: int
    logprob: float
    rank: int
    top: tuple[tuple[int, float], ...]


class Choice(Protocol):
    """One finished choice. `calls` are (name, arguments as JSON text); `content` is what a chat shows beside them."""

    @property
    def prompt_ids(self) -> Sequence[int]: ...
    @property
    def tokens(self) -> Sequence[int]: ...
    @property
    def text(self) -> str: ...
    @property
    def content(self) -> str | None: ...
    @property
    def calls(self) -> Sequence[tuple[str, str]]: ...
    @property
    def finish(self) -> str: ...
    @property
    def stop_reason(self) -> str | int | None: ...
    @property
    def steps(self) -> Sequence[Step]: ...


@dataclass(frozen=True, slots=True)
class Stamp:
    """What identifies a reply."""

    id: str
    created: int
    fingerprint: str
