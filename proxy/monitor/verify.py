"""`mirror.mode = "verify"`: the reference reads what was said before it is asked to say it. Why that is enough, and
what is not: scorers/proof.py, and docs/reference-cost.md.

A proven pair costs the reference one prefill and one token; anything else is generated as ever, and counted with its
reason. Three calls go before the prefill and cost no step of the model: the reference renders the prompt and spells the
tokens itself, so nothing is taken from the candidate but a guess.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeAlias, TypeVar

import orjson

from backends.capabilities import Asking
from backends.scoring import (
    prefill_shows,
    shape_prompt_tokens,
    shape_text_tokens,
    shape_tokens_text,
    shape_verification,
)
from backends.shape import ShadowCall
from proxy.monitor.mirror import Answer, Answers, Mirror
from proxy.monitor.plan import Plan, estimated_tokens
from proxy.settings import Settings
from scorers.decode import DecodeError, decode_reply, decode_request
from scorers.proof import End, Hypothesis, Unproven, Verified, end_of, is_plain, off_the_top, proof, says_its_text
from scorers.records import DecodedReply

T = TypeVar("T")
Ids: TypeAlias = tuple[int, ...]
Offload: TypeAlias = Callable[..., Awaitable[Any]]

TRUSTED_STEPS = 64  # *choice*: steps of the reference's own greedy replies that must all be the top of its lists first
RUNNER_UP = (
    2  # entries that a proof needs; of a list that nobody compares it is all, for the reply lists the prompt too
)

_log = logging.getLogger(__name__)


class Lesson(NamedTuple):
    """What a regenerated reply teaches about the engine. `wrong` is a sentence where a proof would have misled."""

    steps: int
    wrong: str = ""


@dataclass(frozen=True, slots=True)
class Verification:
    """What came of trying. `call` is the scoring call, `prompt` the reference's rendering, where they were made.

    Verified: `reply` is the reference's reply, and `body` the bytes that say it.
    """

    outcome: Verified | Unproven
    call: Answer | None = None
    prompt: Ids | None = None
    reply: DecodedReply | None = None
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Spoken:
    """A reply that the reference may agree with. `tokens` None: there is only its text."""

    reply: DecodedReply
    body: bytes
    end: End
    cap: int | None
    tokens: Ids | None


class Verifier:
    """Answers plans with as few of the reference's own tokens as it can. One per monitor, on its loop."""

    def __init__(
        self, settings: Settings, mirror: Mirror, offload: Offload, asking: Callable[[], tuple[Asking, Asking]]
    ) -> None:
        """`asking` says how each arm may be asked, as far as that is known of its engine."""
        self._mirror = mirror
        self._offload = offload
        self._model = settings.reference.model
        self._asking = asking
        self._max_tokens = settings.mirror.max_scored_prompt_tokens
        self._margin_nats = settings.mirror.verify_margin_nats
        self._epoch = -1
        self._steps = 0
        self._distrusted = False

    def learn(self, epoch: int, lesson: Lesson) -> None:
        """Takes in what a reply of the reference's own showed. One that would have misled ends the epoch's proofs."""
        self._enter(epoch)
        self._steps += lesson.steps
        if lesson.wrong and not self._distrusted:
            self._distrusted = True
            _log.warning("epoch %d: nothing more is verified, every reply is regenerated: %s", epoch, lesson.wrong)

    def trusts(self, epoch: int) -> bool:
        """Whether the engine's own replies have shown that its lists decide them."""
        self._enter(epoch)
        return self._steps >= TRUSTED_STEPS and not self._distrusted

    async def answers(self, plan: Plan, epoch: int) -> tuple[Answers, Verification]:
        """Every call of the plan; the reference's reply is in the verification where it was proven."""
        refused = self._refused(plan, epoch)
        if refused is not None or self._mirror.breaker_open:
            return await self._mirror.answers(plan), Verification(refused or Unproven.ENGINE)
        replay, prompt = await asyncio.gather(self._replayed(plan), self._prompt(plan))
        found = await self._verified(plan, replay, prompt)
        if isinstance(found.outcome, Verified):
            return Answers(reference=found.call or Answer(), replay=replay), found
        answers = await self._mirror.answers(replace(plan, replay=None))
        return replace(answers, replay=replay), found

    def _enter(self, epoch: int) -> None:
        if epoch > self._epoch:  # another engine, perhaps: what was learned of the last one says nothing
            self._epoch, self._steps, self._distrusted = epoch, 0, False

    def _refused(self, plan: Plan, epoch: int) -> Unproven | None:
        """Why not even to ask; nothing in it looks at an answer but for the trust in the engine."""
        if not prefill_shows(plan.request.kind, plan.request.body):
            return Unproven.REQUEST
        if plan.coins.noise or plan.coins.teacher_forced:
            return Unproven.COIN
        if estimated_tokens(plan.request) > self._max_tokens:
            return Unproven.TOO_LONG
        how = self._asking()[1]
        if not how.forced or how.top_logprobs < RUNNER_UP:
            return Unproven.ENGINE
        return None if self.trusts(epoch) else Unproven.UNTRUSTED

    async def _replayed(self, plan: Plan) -> Answer | None:
        return None if plan.replay is None else await self._mirror.ask("candidate", plan.replay, plan.headers)

    async def _prompt(self, plan: Plan) -> Ids | None:
        asked = shape_prompt_tokens(plan.request.kind, plan.request.body, self._name(plan))
        return await self._tokens(asked, plan) if isinstance(asked, ShadowCall) or asked is None else asked

    async def _verified(self, plan: Plan, replay: Answer | None, prompt: Ids | None) -> Verification:
        if not prompt:
            return Verification(Unproven.ENGINE)
        spoken = await self._offload(spoken_by, plan, replay)
        if isinstance(spoken, Unproven):
            return Verification(spoken, prompt=prompt)
        tokens = spoken.tokens
        if tokens is None:
            tokens = await self._tokens(shape_text_tokens(spoken.reply.choices[0].text, self._name(plan)), plan)
            if tokens is None:
                return Verification(Unproven.ENGINE, prompt=prompt)
        elif spoken.reply.prompt_token_ids not in (None, prompt):
            return Verification(Unproven.PROMPTS_DIFFER, prompt=prompt)
        if spoken.end == "length" and len(tokens) != spoken.cap:
            return Verification(Unproven.ANOTHER_END, prompt=prompt)
        if len(prompt) + len(tokens) > self._max_tokens:
            return Verification(Unproven.TOO_LONG, prompt=prompt)
        raw = await self._text(tokens, plan)
        if raw is None:
            return Verification(Unproven.ENGINE, prompt=prompt)
        if not says_its_text(spoken.reply.choices[0], raw, tools=bool(plan.request.tools)):
            return Verification(Unproven.PARSED, prompt=prompt)
        return await self._scored(plan, spoken, prompt, Hypothesis(tokens, spoken.end))

    async def _scored(self, plan: Plan, spoken: _Spoken, prompt: Ids, hypothesis: Hypothesis) -> Verification:
        compared = plan.replay is not None or bool(plan.request.body.get("logprobs"))
        call = shape_verification(
            prompt,
            hypothesis.forced,
            model=self._name(plan),
            top_logprobs=self._asking()[1].top_logprobs if compared else RUNNER_UP,
            stop_token_ids=plan.request.body.get("stop_token_ids"),
        )
        if call is None:
            return Verification(Unproven.ENGINE, prompt=prompt)
        answer = await self._mirror.ask("reference", call, plan.headers, optional=True)
        if answer.reply is None:
            return Verification(Unproven.ENGINE, answer, prompt)
        outcome = await self._offload(proof, answer.reply.body, len(prompt), hypothesis, self._margin_nats)
        if isinstance(outcome, Unproven):
            return Verification(outcome, answer, prompt)
        return Verification(outcome, answer, prompt, _said(spoken.reply, prompt, outcome), spoken.body)

    async def _tokens(self, call: ShadowCall | None, plan: Plan) -> Ids | None:
        found = await self._field(call, plan, "tokens")
        if not isinstance(found, list) or not all(type(token) is int and token >= 0 for token in found):
            return None
        return tuple(found)

    async def _text(self, tokens: Ids, plan: Plan) -> str | None:
        found = await self._field(shape_tokens_text(tokens, self._name(plan)), plan, "prompt")
        return found if isinstance(found, str) else None

    async def _field(self, call: ShadowCall | None, plan: Plan, name: str) -> object:
        if call is None:
            return None
        answer = await self._mirror.ask("reference", call, plan.headers, optional=True)
        if answer.reply is None:
            return None
        try:
            body = orjson.loads(answer.reply.body)
        except orjson.JSONDecodeError:
            return None
        return body.get(name) if isinstance(body, dict) else None

    def _name(self, plan: Plan) -> str | None:
        return self._model if self._model is not None else plan.request.model or None


def spoken_by(plan: Plan, replay: Answer | None) -> _Spoken | Unproven:
    """The candidate's reply to hold against the reference: the replay, which has token ids, else the served one."""
    try:
        cap = decode_request(plan.path, plan.reference.body).max_tokens
        if replay is not None and replay.reply is not None:
            reply, body = _read(plan, replay.reply.content_type, replay.reply.body), replay.reply.body
            if len(reply.choices) == 1 and reply.choices[0].token_ids:
                return _by_tokens(reply, body, reply.choices[0].token_ids, cap)
        if plan.served is None:
            return Unproven.REPLY
        reply, body = _read(plan, plan.served.content_type, plan.served.body), plan.served.body
    except DecodeError:
        return Unproven.REPLY
    return _by_text(reply, body, cap)


def lesson(right: DecodedReply, replay: DecodedReply | None, tried: Verification) -> Lesson:
    """What the reference's own greedy reply says about proofs: whether they would have held here."""
    if tried.outcome is Unproven.REQUEST:
        return Lesson(0)  # a penalty or a grammar of the request's own: its replies show nothing about the others
    steps, off = off_the_top(right)
    if off:
        return Lesson(steps, f"{off} of {steps} tokens of a greedy reply are not the top of the reference's own lists")
    if tried.prompt is not None and right.prompt_token_ids not in (None, tried.prompt):
        return Lesson(steps, "the reference's /tokenize renders another prompt than its chat completions")
    if replay is not None and _same_tokens(replay, right) and _message(replay) != _message(right):
        return Lesson(steps, "the two arms make different messages of the same tokens: another parser")
    return Lesson(steps)


def _by_tokens(reply: DecodedReply, body: bytes, tokens: Ids, cap: int | None) -> _Spoken | Unproven:
    end = end_of(reply.choices[0])
    if end is None:
        return Unproven.ANOTHER_END
    return _Spoken(reply, body, end, cap, tokens[:-1] if end == "stop" else tokens)


def _by_text(reply: DecodedReply, body: bytes, cap: int | None) -> _Spoken | Unproven:
    choice = reply.choices[0]
    if len(reply.choices) != 1 or choice.tool_calls or not choice.text or not is_plain(choice.text):
        return Unproven.REPLY
    end = end_of(choice)
    return Unproven.ANOTHER_END if end is None else _Spoken(reply, body, end, cap, None)


def _said(reply: DecodedReply, prompt: Ids, verified: Verified) -> DecodedReply:
    """The reference's reply: the words that were proven, with its own tokens, lists and counts."""
    choice = replace(reply.choices[0], token_ids=verified.tokens, logprobs=verified.logprobs)
    return DecodedReply(
        choices=(choice,),
        prompt_tokens=len(prompt),
        completion_tokens=len(verified.tokens),
        prompt_token_ids=prompt,
    )


def _read(plan: Plan, content_type: str, body: bytes) -> DecodedReply:
    return decode_reply(plan.request.kind, content_type, body, logprobs=False)


def _same_tokens(left: DecodedReply, right: DecodedReply) -> bool:
    ids = [[choice.token_ids for choice in reply.choices] for reply in (left, right)]
    return None not in ids[0] and ids[0] == ids[1]


def _message(reply: DecodedReply) -> list[object]:
    return [(c.text, c.tool_calls, c.reasoning or "", c.refusal or "", c.finish_reason) for c in reply.choices]
