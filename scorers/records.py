"""The values that scorers read and return. Pure data; every module in this package speaks these words.

DecodedRequest      what the client asked, as far as a scorer needs it
DecodedReply        one arm's answer: choices, token logprobs, usage
Pair                a request and the two replies to it; arm says what stands on the left side
Score / Unscored    a number in a stated unit / a stated reason why there is none
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

from scorers.grid import TokenGrid

Json: TypeAlias = Any  # a parsed JSON value; scorers check its shape where they use it
Arm: TypeAlias = Literal["candidate", "noise"]


class Reason(StrEnum):
    """Why there is no number. A closed set: it labels metrics.

    The first group says that the score does not apply to this request, which the request, a coin
    of our own or the reference's answer decided, never the left side's: such a pair is no evidence
    either way. The second says that a number should be there and is not: it counts against
    whichever decision is at stake.
    """

    # does not apply: known from the request, the plan, or the reference's answer
    NO_TOOLS = "no_tools"
    NO_JSON_FORMAT = "no_json_format"
    NO_SPANS = "no_spans"
    NO_CALLS = "no_calls"
    NO_FREE_TEXT = "no_free_text"
    CALLED_TOOLS = "called_tools"
    NOT_PLANNED = "not_planned"
    NOT_A_PROBE = "not_a_probe"
    EMPTY_REPLY = "empty_reply"  # the reference's
    NEEDLE_NOT_FOUND = "needle_not_found"  # by the reference
    UNSUPPORTED = "unsupported"
    # lost: should have been scored
    CANDIDATE_ERROR = "candidate_error"
    CANDIDATE_UNDECODABLE = "candidate_undecodable"
    REFERENCE_ERROR = "reference_error"
    REFERENCE_TIMEOUT = "reference_timeout"
    REFERENCE_UNDECODABLE = "reference_undecodable"
    BREAKER_OPEN = "breaker_open"
    QUEUE_FULL = "queue_full"
    PAUSED = "paused"
    LATE = "late"
    EPOCH_CLOSED = "epoch_closed"  # sampled in an epoch that had ended by the time it could be scored
    LEFT_EMPTY = "left_empty"  # where the reference answered
    NO_USAGE = "no_usage"
    NO_LOGPROBS = "no_logprobs"
    ENGINE_LACKS = "engine_lacks"  # an arm was found unable to give what the score needs
    TOKENS_DIFFER = "tokens_differ"
    SCORER_ERROR = "scorer_error"

    @property
    def lost(self) -> bool:
        """True when the score applies and its number is missing."""
        return self not in _NOT_APPLICABLE


_NOT_APPLICABLE = frozenset(
    {
        Reason.NO_TOOLS,
        Reason.NO_JSON_FORMAT,
        Reason.NO_SPANS,
        Reason.NO_CALLS,
        Reason.NO_FREE_TEXT,
        Reason.CALLED_TOOLS,
        Reason.NOT_PLANNED,
        Reason.NOT_A_PROBE,
        Reason.EMPTY_REPLY,
        Reason.NEEDLE_NOT_FOUND,
        Reason.UNSUPPORTED,
    }
)

LENGTH_BUCKETS: tuple[tuple[str, int], ...] = (
    # name, exclusive upper bound in prompt tokens; RULER's lengths (metrology 3)
    ("0-512", 512),
    ("512-1k", 1_024),
    ("1k-4k", 4_096),
    ("4k-16k", 16_384),
    ("16k-64k", 65_536),
    ("64k+", 1 << 62),
)


@dataclass(frozen=True, slots=True, order=True)
class Stratum:
    """The closed set in which coverage and evidence are kept apart: 6 x 2 x 2 x 2 cells."""

    length: str
    tools: bool
    stream: bool
    greedy: bool

    def __str__(self) -> str:
        return "/".join(
            (
                self.length,
                "tools" if self.tools else "plain",
                "stream" if self.stream else "whole",
                "greedy" if self.greedy else "sampled",
            )
        )


def length_bucket(prompt_tokens: int) -> str:
    """The name of the prompt-length bucket. Units: tokens."""
    return next(name for name, upper in LENGTH_BUCKETS if prompt_tokens < upper)


@dataclass(frozen=True, slots=True)
class DecodedRequest:
    """What the client asked. `tools` holds the offered functions by name with their JSON Schema.

    `prompt_text` is all text of the prompt in order, joined by newlines (messages' contents, or the
    completion's prompt); recall reads it. `greedy` is true when the request itself says temperature 0.
    """

    kind: Literal["chat", "completion"]
    model: str
    stream: bool
    n: int
    greedy: bool
    temperature: float | None
    tools: Mapping[str, Json] = field(default_factory=dict)
    tool_choice: Json = None
    response_format: Json = None
    max_tokens: int | None = None
    prompt_text: str = ""
    body: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call as the engine reported it; `arguments` is the raw string, not yet parsed."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Per generated token: its key, its logprob, and the top-k list at that step.

    A key is the token's text, or `token_id:N` where the engine was asked for ids; the same kind on
    both sides of a pair, or nothing can be compared. `top[i]` maps key to logprob and includes the
    chosen token when the engine sent it.

    Shapes:  tokens, chosen and top have one entry per generated token.
    Units:   nats.
    """

    tokens: tuple[str, ...]
    chosen: tuple[float, ...]
    top: tuple[Mapping[str, float], ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer of a reply."""

    index: int
    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    refusal: str | None = None
    reasoning: str | None = None
    token_ids: tuple[int, ...] | None = None
    logprobs: TokenLogprobs | TokenGrid | None = None  # a grid where decode could read arrays straight away


@dataclass(frozen=True, slots=True)
class DecodedReply:
    """One arm's whole answer. Choices are sorted by index."""

    choices: tuple[Choice, ...]
    model: str = ""
    system_fingerprint: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_token_ids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class TeacherForced:
    """The reference's distribution at each of the candidate's own tokens, from one prefill.

    Shapes:  top[i] belongs to the candidate's generated token i of choice 0; keys are `token_id:N`.
    Units:   nats.
    """

    top: tuple[Mapping[str, float], ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """A planted needle: what was hidden, where, and what the answer must contain."""

    needle: str
    answer: str
    depth_ratio: float
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Pair:
    """Two decoded replies to one request.

    `left` is the candidate (arm "candidate") or the reference's second run (arm "noise"); `right` is
    always the reference. `left_served` says that left is what the client got, not a replay.
    """

    request: DecodedRequest
    left: DecodedReply
    right: DecodedReply
    arm: Arm = "candidate"
    left_served: bool = True
    teacher_forced: TeacherForced | None = None
    probe: Probe | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A number in its unit. `explanation` is JSON-ready and says how it came about."""

    name: str
    value: float
    explanation: Mapping[str, Json] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Unscored:
    """A stated reason why there is no number."""

    name: str
    reason: Reason
    explanation: Mapping[str, Json] = field(default_factory=dict)


Scored: TypeAlias = Score | Unscored


@dataclass(frozen=True, slots=True)
class ScoreSpec:
    """What a score means. `bounded`: its value lies in [0, 1]; only such scores can promote."""

    name: str
    unit: str
    bounded: bool
    meaning: str


class Scorer(Protocol):
    """One metric family: a pure function from a pair to one Score or Unscored per spec, in spec order."""

    family: str
    specs: tuple[ScoreSpec, ...]

    def __call__(self, pair: Pair) -> tuple[Scored, ...]: ...

    def missing(self, request: DecodedRequest, why: Reason) -> tuple[Unscored, ...]:
        """What it means that no pair came: per spec, the reason why the score does not apply to this
        request where the request alone shows it, and `why` otherwise."""
        ...


Disposition: TypeAlias = Literal["scored", "ineligible", "lost"]


class Observation(NamedTuple):
    """One sampled request as evidence sees it, consumed strictly in rising `position` (sampling order).

    `scored`: it was decoded and planned; `candidate` and `noise` hold a number or a Reason per score name
    (a lost Reason counts against whichever decision is at stake; the others are skipped; a name that is
    absent is skipped). `ineligible`: never meant to be scored (reason says why). `lost`: it was sampled and
    never became known well enough to say which scores apply: coverage, not evidence.
    `kind` is "probe" for planted needles, which are no client's requests and no part of coverage.
    A tuple, because a ledger is read back as millions of them: a frozen dataclass costs three times as much to make.
    """

    position: int
    kind: Literal["live", "probe"]
    disposition: Disposition
    reason: str | None
    stratum: Stratum | None
    candidate: Mapping[str, float | Reason] = MappingProxyType({})
    noise: Mapping[str, float | Reason] = MappingProxyType({})
