"""Whether the reference would have said the same words: greedy decoding, proven from one prefill. Pure.

Greedy decoding is a walk: at each prefix the most likely token is taken, until one of them ends the turn. So when
c1 is the most likely token after the prompt, c2 after the prompt and c1, and so on, and the engine's own next token
after the last of them ends the turn, then c1..cn is the walk, by induction, and whoever wrote c1..cn down does not
matter: the candidate's own tokens will do, and so will a text that was tokenized again.

Two things can part a prefill from a decode. Their kernels round differently, so a step whose two best tokens are
closer than a margin proves nothing (`NEAR_TIE`). And a token that ends a reply must end it at the reference too, so
the one token that a scoring call has to generate is the step after the last: the engine itself says whether it stops.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, TypeAlias

import numpy as np

from scorers.comparable import grid
from scorers.decode import DecodeError, decode_verification
from scorers.grid import ABSENT, TOKEN_ID_PREFIX, TokenGrid
from scorers.records import Choice, DecodedReply, TokenLogprobs, ToolCall

End: TypeAlias = Literal["stop", "length"]

_ENDS: Mapping[str, End] = {"stop": "stop", "tool_calls": "stop", "length": "length"}
_MAY_BE_READ = frozenset("{[<")  # no tool parser of any engine finds a call in a text that has none of these
_TAG = re.compile(r"<[^<>\s]{1,64}>|\[/?[A-Z_]{2,32}\]")  # how special tokens are spelled: <|x|>, </s>, [INST]
_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>\s*", re.DOTALL)


class Unproven(StrEnum):
    """Why the reference was asked to generate its own reply. A closed set: it labels metrics."""

    # known before anything is asked
    COIN = "coin"  # a noise or teacher-forced pair: it is measured in full, whatever anybody answered
    REQUEST = "request"  # its options move or mask the distribution, or a prompt of token ids cannot carry it
    REPLY = "reply"  # nothing to hold against the reference: no text, several choices, tool calls without token ids
    TOO_LONG = "too_long"  # past max_scored_prompt_tokens
    UNTRUSTED = "untrusted"  # its greedy replies are not (or not yet) seen to be the top of its own lists
    # what the engine made of it
    ENGINE = "engine"  # it does not tokenize or score prompts, or did not answer
    PROMPTS_DIFFER = "prompts_differ"
    PARSED = "parsed"  # the message is not its raw text: what the reference's parser makes of that is not known
    TRUNCATED = "truncated"  # a list without the token or its rival
    ANOTHER_TOKEN = "another_token"
    NEAR_TIE = "near_tie"
    ANOTHER_END = "another_end"


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What the reference is supposed to say. `tokens` hold no token that ends the turn."""

    tokens: tuple[int, ...]
    end: End

    @property
    def forced(self) -> tuple[int, ...]:
        """What the reference reads; the step after it is its own. One that ends at its length says its last token."""
        return self.tokens if self.end == "stop" else self.tokens[:-1]


@dataclass(frozen=True, slots=True)
class Verified:
    """The reference's greedy reply, by its tokens (the one that ended the turn included) and its own lists."""

    tokens: tuple[int, ...]
    logprobs: TokenLogprobs


def end_of(choice: Choice) -> End | None:
    """How the reply ended, as far as that can be shown again."""
    return _ENDS.get(choice.finish_reason or "")


def proof(body: bytes, prompt_tokens: int, hypothesis: Hypothesis, margin_nats: float) -> Verified | Unproven:
    """What the reply to a scoring call (`backends.scoring.shape_verification`) proves.

    `margin_nats` is by how much each token must lead the next best one; 0 still refuses ties.
    """
    forced = hypothesis.forced
    try:
        tops, own = decode_verification(body, prompt_tokens, len(forced))
    except DecodeError:
        return Unproven.ENGINE
    said = _by_id(own)
    if said is None or own.token_ids is None or len(own.token_ids) != 1:
        return Unproven.ENGINE
    if len(said) != 1 or int(said.chosen[0]) != own.token_ids[0]:
        return Unproven.ENGINE
    last = {
        f"{TOKEN_ID_PREFIX}{token}": float(logprob)
        for token, logprob in zip(said.ids[0], said.logprobs[0], strict=True)
        if token != ABSENT
    }
    tokens = (*forced, *own.token_ids)
    lists = (*tops, last)
    for token, top in zip(tokens, lists, strict=True):
        wrong = _unproven_step(f"{TOKEN_ID_PREFIX}{token}", top, margin_nats)
        if wrong is not None:
            return wrong
    if own.finish_reason != hypothesis.end:
        return Unproven.ANOTHER_END
    if hypothesis.end == "length" and tokens != hypothesis.tokens:
        return Unproven.ANOTHER_TOKEN
    keys = tuple(f"{TOKEN_ID_PREFIX}{token}" for token in tokens)
    return Verified(tokens, TokenLogprobs(keys, tuple(top[key] for key, top in zip(keys, lists, strict=True)), lists))


def says_its_text(choice: Choice, raw: str, *, tools: bool) -> bool:
    """Whether the message is what any sound parser makes of the raw text, so that the tokens alone decide it.

    Parsers are the engine's and not the model's: one arm's may be wrong (metrology 2), and then equal tokens make
    unequal messages. A plain text is its own message: it must hold no mark of a reasoning parser, and where tools are
    offered nothing that might be taken for a call. Calls must be the raw text's, one by one, in the hermes form
    (`<tool_call>` around JSON).
    """
    if choice.reasoning or choice.refusal:
        return False
    if not choice.tool_calls:
        return choice.text == raw and is_plain(raw) and not (tools and _MAY_BE_READ & set(raw))
    before, calls = _hermes(raw)
    return calls == [_read(call) for call in choice.tool_calls] and None not in calls and before == choice.text.strip()


def is_plain(text: str) -> bool:
    """Whether nothing in the text is spelled as a special token: so that tokenizing it again gives none, and no parser
    reads one."""
    return not _TAG.search(text)


def off_the_top(reply: DecodedReply) -> tuple[int, int]:
    """(steps, steps whose token was not the most likely one) of a greedy reply, by its own lists.

    An engine whose defaults carry a penalty (vLLM reads them from the model's generation_config.json) takes other
    tokens than the top of its raw lists, and then nothing is proven by those.
    """
    steps = off = 0
    for choice in reply.choices:
        lists = _by_id(choice)
        if lists is None or not len(lists):
            continue
        chosen = np.where(lists.ids == lists.chosen[:, None], lists.logprobs, -np.inf).max(axis=1)
        steps += len(lists)
        off += int((chosen < lists.logprobs.max(axis=1)).sum())
    return steps, off


def _by_id(choice: Choice) -> TokenGrid | None:
    """The choice's lists; None where there are none, or not by token id."""
    try:
        return None if choice.logprobs is None else grid(choice, None)
    except ValueError:
        return None


def _unproven_step(key: str, top: Mapping[str, float], margin_nats: float) -> Unproven | None:
    own = top.get(key)
    rival = max((logprob for other, logprob in top.items() if other != key), default=None)
    if own is None or rival is None:
        return Unproven.TRUNCATED
    if own < rival:
        return Unproven.ANOTHER_TOKEN
    return None if own - rival > margin_nats else Unproven.NEAR_TIE


def _hermes(raw: str) -> tuple[str, list[object]]:
    """What stands before the calls, and the calls as (name, arguments); None for what is no call."""
    start = raw.find("<tool_call>")
    if start < 0:
        return raw.strip(), []
    calls: list[object] = []
    place = start
    while (found := _CALL.match(raw, place)) is not None:
        calls.append(_called(found[1]))
        place = found.end()
    return raw[:start].strip(), calls if place == len(raw) else [None]


def _called(text: str) -> object:
    try:
        value = json.loads(text)
        return (value["name"], _canonical(value["arguments"])) if value.keys() == {"name", "arguments"} else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _read(call: ToolCall) -> object:
    try:
        return call.name, _canonical(json.loads(call.arguments))
    except (ValueError, RecursionError):
        return "unreadable"


def _canonical(arguments: object) -> str:
    """Text that is equal for equal JSON and keeps 1, 1.0 and true apart."""
    return json.dumps(arguments, sort_keys=True)
