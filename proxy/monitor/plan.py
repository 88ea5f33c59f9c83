"""What to do with one exchange, decided before anything is called. Pure: the same exchange gives the same plan.

A request at temperature 0 is compared as it was served; any other is replayed greedily on both arms, on the share that
its coin picks (DESIGN 5.4). So is every request that the reference served in a staged rollout: its reply says nothing
about the candidate. One that failed over to the reference counts as what it was: a failure of the candidate. Every
coin is a keyed hash of the exchange's id, one key per coin, so that no coin looks at an answer and each can be
recomputed from the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from backends.capabilities import Asking
from backends.shape import Refusal, ShadowCall, classify, shadow_headers, shape_replay
from proxy.exchange import Exchange, Outcome, ServedBy
from proxy.monitor.coding import header, unpacked
from proxy.monitor.rows import Ineligible
from proxy.sampling import Sampler
from proxy.settings import Settings
from scorers.decode import DecodeError, decode_request
from scorers.records import DecodedRequest, Probe, Reason, Stratum, length_bucket

ASCII_CHARS_PER_TOKEN = 4  # choice: English and code; any other character counts as a token of its own
CREDENTIALS_REFUSED = frozenset({401, 403})  # the client's own key, which is never shown to the reference
NOT_ABOUT_THE_REQUEST = frozenset({408, 425, 429})  # 4xx that speak of load and time (RFC 9110, 8470, 6585)
_MIRRORED_PATHS = frozenset({"/v1/chat/completions", "/v1/completions"})


@dataclass(frozen=True, slots=True)
class Coins:
    """How the coins fell for one exchange."""

    replay: bool
    noise: bool
    teacher_forced: bool
    needle: bool
    keep: bool


class Tosser:
    """Tosses the coins: `Sampler` with a salt of its own for each."""

    def __init__(self, settings: Settings, salt: bytes) -> None:
        """`salt` is the secret one: whoever knew it could pick ids whose pairs are, or are not, looked at."""
        mirror = settings.mirror
        forced_rate = mirror.teacher_forced_rate if settings.reference.teacher_forcing else 0.0
        self._replay = _coin(salt, "replay", mirror.replay_rate)
        self._noise = _coin(salt, "noise", mirror.noise_rate)
        self._teacher_forced = _coin(salt, "teacher_forced", forced_rate)
        self._needle = _coin(salt, "needle", mirror.needle_rate)
        self._keep = _coin(salt, "keep", settings.ledger.keep_share)

    def toss(self, id: str) -> Coins:
        """The coins of this exchange, the same whenever asked."""
        return Coins(
            replay=self._replay.decide(id, 0),
            noise=self._noise.decide(id, 0),
            teacher_forced=self._teacher_forced.decide(id, 0),
            needle=self._needle.decide(id, 0),
            keep=self._keep.decide(id, 0),
        )


@dataclass(frozen=True, slots=True)
class Served:
    """The reply that the client got, content coding undone."""

    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """An eligible exchange and the calls that it needs.

    `served` is the left side as it stands, for greedy requests. `replay` asks the candidate again, `reference` and
    `control` (the noise share) ask the reference. `failed`: the candidate did not answer the client properly, so
    there is nothing to compare and nothing is called. `refused`: the 4xx with which the candidate refused the request
    (or, of a probe, its parent), else 0: whether the request was wrong is then for the reference to say. `probe`: this
    is a planted needle, not the client's request.
    """

    id: str
    path: str
    request: DecodedRequest
    request_body: bytes
    coins: Coins
    headers: Mapping[str, str]
    reference: ShadowCall
    served: Served | None = None
    replay: ShadowCall | None = None
    control: ShadowCall | None = None
    failed: Reason | None = None
    refused: int = 0
    probe: Probe | None = None


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """Not eligible, and why. `request` is there when it could be read."""

    reason: Ineligible
    request: DecodedRequest | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def plan(
    exchange: Exchange, coins: Coins, settings: Settings, arms: tuple[Asking, Asking] | None = None
) -> Plan | TurnedAway:
    """What to do with this exchange. `arms`: how the candidate and the reference are asked, by default for all."""
    path = exchange.target.partition("?")[0]
    if exchange.method != "POST":
        return TurnedAway(Ineligible.METHOD)
    if path not in _MIRRORED_PATHS:
        return TurnedAway(Ineligible.PATH)
    body = unpacked(exchange.request_headers, exchange.request_body, settings.feed.max_request_bytes)
    if body is None:
        return TurnedAway(Ineligible.CONTENT_CODING)
    try:
        request = decode_request(path, body)
    except DecodeError:
        return TurnedAway(Ineligible.BAD_REQUEST)
    kind = classify(path, request.body)
    if isinstance(kind, Refusal):
        return TurnedAway(Ineligible(kind.reason.value))
    if exchange.outcome is Outcome.CLIENT_CLOSED:
        return TurnedAway(Ineligible.CLIENT_CLOSED, request)
    if exchange.status in CREDENTIALS_REFUSED:
        return TurnedAway(Ineligible.CLIENT_ERROR, request)
    by_reference = exchange.served_by is ServedBy.REFERENCE
    if exchange.served_by is not ServedBy.CANDIDATE and refused_status(exchange):
        return TurnedAway(Ineligible.CLIENT_ERROR, request)  # the reference itself says that the request was wrong
    if (by_reference or not request.greedy) and not coins.replay:
        why = Ineligible.SERVED_BY_REFERENCE if by_reference else Ineligible.SAMPLED_NOT_REPLAYED
        headers = shadow_headers(exchange.request_headers, settings.mirror.forward_headers)
        return TurnedAway(why, request, headers)  # a needle may still be planted in it
    planned = _with_calls(exchange, path, request, body, coins, settings, arms or asking_all(settings))
    if isinstance(planned, Refusal):
        return TurnedAway(Ineligible(planned.reason.value), request)
    if by_reference or not request.greedy or planned.failed is not None or planned.refused:
        return planned
    reply = unpacked(exchange.response_headers, exchange.response_body, settings.feed.max_response_bytes)
    if reply is None:
        return replace(planned, failed=Reason.CANDIDATE_UNDECODABLE)
    return replace(planned, served=Served(header(exchange.response_headers, b"content-type"), reply))


def refused_status(exchange: Exchange) -> int:
    """The status with which the arm that served it refused the request itself; 0 when it did not."""
    refused = 400 <= exchange.status < 500 and exchange.status not in NOT_ABOUT_THE_REQUEST
    return exchange.status if refused and exchange.complete else 0


def seed_of(id: str, run: str) -> int:
    """A seed for one shadow call: stable per exchange, another one per run. 31 bits, which every engine takes."""
    return int.from_bytes(blake2b(f"{run}:{id}".encode(), digest_size=4).digest(), "big") >> 1


def stratum_of(request: DecodedRequest) -> Stratum:
    """The cell that a request belongs to, by the request alone: whether an arm answered must not move it."""
    length = length_bucket(estimated_tokens(request))
    return Stratum(length, tools=bool(request.tools), stream=request.stream, greedy=request.greedy)


def estimated_tokens(request: DecodedRequest) -> int:
    """The prompt's length: exact where it came as token ids, else a guess from its text. Units: tokens."""
    prompt = request.body.get("prompt") if request.kind == "completion" else None
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return len(prompt)
    text = request.prompt_text
    ascii_chars = len(text) if text.isascii() else len(text.encode("ascii", "ignore"))
    return ascii_chars // ASCII_CHARS_PER_TOKEN + len(text) - ascii_chars


def asking_all(settings: Settings) -> tuple[Asking, Asking]:
    """Both arms asked for everything, as a vLLM gives it."""
    return (Asking(settings.mirror.top_logprobs),) * 2


def _with_calls(
    exchange: Exchange,
    path: str,
    request: DecodedRequest,
    body: bytes,
    coins: Coins,
    settings: Settings,
    arms: tuple[Asking, Asking],
) -> Plan | Refusal:
    refused = refused_status(exchange)
    by_reference = exchange.served_by is ServedBy.REFERENCE
    replayed = by_reference or not request.greedy
    unbounded = replayed and request.max_tokens is None  # the left side is a replay: cap all arms alike

    def shaped(model: str | None, run: str, arm: Asking) -> ShadowCall | Refusal:
        return shape_replay(
            request.body,
            path,
            model=model,
            top_logprobs=arm.top_logprobs,
            leave_out=arm.leave_out,
            greedy=True,
            seed=seed_of(exchange.id, run),
            max_tokens_cap=settings.mirror.max_replay_tokens if unbounded else None,
        )

    # An unknown model's name must reach the reference as it is: under the reference's own name it would be answered.
    misnamed = refused == 404 and request.model != settings.candidate.model
    on_candidate, on_reference = arms
    reference = shaped(None if misnamed else settings.reference.model, "first", on_reference)
    if isinstance(reference, Refusal):
        return reference
    replay = shaped(settings.candidate.model, "first", on_candidate) if coins.replay else None
    control = shaped(settings.reference.model, "second", on_reference) if coins.noise else None
    answered = exchange.outcome is Outcome.COMPLETE and 200 <= exchange.status < 300
    candidate_failed = not (by_reference or answered or refused) or exchange.served_by is ServedBy.FAILOVER
    return Plan(
        id=exchange.id,
        path=path,
        request=request,
        request_body=body,
        coins=coins,
        headers=shadow_headers(exchange.request_headers, settings.mirror.forward_headers),
        reference=reference,
        replay=replay if isinstance(replay, ShadowCall) else None,
        control=control if isinstance(control, ShadowCall) else None,
        failed=Reason.CANDIDATE_ERROR if candidate_failed else None,
        refused=refused,
    )


def _coin(salt: bytes, name: str, rate: float) -> Sampler:
    return Sampler(salt=salt + b"/" + name.encode(), rate=rate, large_body_rate=rate, large_body_bytes=1)
