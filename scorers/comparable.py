"""Whether the tokens and logprobs of two replies can be laid beside each other. Back room of logprobs.py.

What was not planned is told by the request and the reference's reply alone: a served reply is compared when the
client asked for lists as long as the reference's, with keys of the same kind. What was planned and is not in the
left reply is lost.
"""

from __future__ import annotations

import numpy as np

from scorers.grid import ABSENT, TOKEN_ID_PREFIX, Ids, KeyCodes, TokenGrid, grid_of
from scorers.records import Choice, DecodedReply, DecodedRequest, Pair, Reason


def unready(pair: Pair) -> Reason | None:
    """Why the aligned prefix cannot be scored, or None when it can."""
    if pair.left_served and not _asks_alike(pair):
        return Reason.NOT_PLANNED
    if without_logprobs(pair.right):
        return Reason.NO_LOGPROBS
    if not any(_steps(choice) for choice in pair.right.choices):
        return Reason.EMPTY_REPLY
    if without_logprobs(pair.left):
        return Reason.NO_LOGPROBS
    if prompts_differ(pair.left, pair.right):
        return Reason.TOKENS_DIFFER
    if keys_differ(pair) or _is_shorter(pair):
        return Reason.NO_LOGPROBS
    return None


def without_logprobs(reply: DecodedReply) -> bool:
    return any(choice.logprobs is None for choice in reply.choices)


def _asks_alike(pair: Pair) -> bool:
    """Whether the client asked for what the reference gives: lists as long, with keys of the same kind."""
    return _asked_top(pair.request) >= max(_shortest_list(pair.right), 1) and _asks_keys_alike(pair)


def _asks_keys_alike(pair: Pair) -> bool:
    told = by_id(pair.right)
    return told is None or told is bool(pair.request.body.get("return_tokens_as_token_ids"))


def _asked_top(request: DecodedRequest) -> float:
    """Entries per list that the client asked for; 0 where it asked for no logprobs, or for the chosen token's only.

    Source:  OpenAI's `logprobs` and `top_logprobs`; -1 is vLLM's for the whole vocabulary.
    """
    if request.kind == "chat" and request.body.get("logprobs") is not True:
        return 0
    count = request.body.get("top_logprobs" if request.kind == "chat" else "logprobs")
    if type(count) is not int:
        return 0
    return float("inf") if count == -1 else count


def _steps(choice: Choice) -> int:
    """How many steps have a list."""
    logprobs = choice.logprobs
    return 0 if logprobs is None else len(logprobs) if isinstance(logprobs, TokenGrid) else len(logprobs.top)


def _list_sizes(reply: DecodedReply) -> list[int]:
    """Entries of each step's list."""
    sizes: list[int] = []
    for choice in reply.choices:
        if isinstance(choice.logprobs, TokenGrid):
            steps, width = choice.logprobs.ids.shape
            absent = choice.logprobs.ids == ABSENT
            sizes += (width - absent.sum(axis=1)).tolist() if absent.any() else [width] * steps
        elif choice.logprobs is not None:
            sizes += map(len, choice.logprobs.top)
    return sizes


def _shortest_list(reply: DecodedReply) -> int:
    """The k of the reply; a step may hold one entry more, for a chosen token outside of its list."""
    return min(_list_sizes(reply), default=0)


def _is_shorter(pair: Pair) -> bool:
    """Whether the left side's lists are shorter than the reference's: more mass in the bucket, and so less KL. The
    longest tells, because lists of texts leave out those that two tokens share (wire.py)."""
    sizes = _list_sizes(pair.left)
    return bool(sizes) and max(sizes) < _shortest_list(pair.right)


def keys_differ(pair: Pair) -> bool:
    return {by_id(pair.left), by_id(pair.right)} >= {True, False}


def by_id(reply: DecodedReply) -> bool | None:
    """Whether the reply's keys are token ids, or another kind of words for the same tokens; None without a token."""
    for choice in reply.choices:
        if isinstance(choice.logprobs, TokenGrid):
            return True
        if choice.logprobs is not None and choice.logprobs.tokens:
            return choice.logprobs.tokens[0].startswith(TOKEN_ID_PREFIX)
    return None


def prompts_differ(left: DecodedReply, right: DecodedReply) -> bool:
    """True when the two arms are known to have read different prompts: another template or tokenizer."""
    if left.prompt_token_ids is not None and right.prompt_token_ids is not None:
        return left.prompt_token_ids != right.prompt_token_ids
    if left.prompt_tokens is not None and right.prompt_tokens is not None:
        return left.prompt_tokens != right.prompt_tokens
    return False


def asks_tokens(pair: Pair) -> bool:
    """Whether the client asked for the reply's tokens, in the words in which the reference tells them."""
    body = pair.request.body
    if body.get("return_token_ids") is True:
        return _token_ids(pair.right) is not None
    asked = body.get("logprobs")
    listed = asked is True if pair.request.kind == "chat" else type(asked) is int
    return listed and _asks_keys_alike(pair)


def tokens_of(pair: Pair) -> tuple[list[Ids] | None, list[Ids] | None]:
    """Each side's tokens by choice, as ids, or as numbered texts where a side has only those; None where they
    cannot be told in the same words."""
    sides = [_token_ids(reply) for reply in (pair.left, pair.right)]
    if None in sides and not keys_differ(pair) and not any(map(without_logprobs, (pair.left, pair.right))):
        codes = KeyCodes()
        sides = [[grid(choice, codes).chosen for choice in reply.choices] for reply in (pair.left, pair.right)]
    return sides[0], sides[1]


def grid(choice: Choice, codes: KeyCodes | None) -> TokenGrid:
    """The choice's logprobs as arrays. Raises: ValueError where it has none, or keys that are not the asked kind."""
    logprobs = choice.logprobs
    if logprobs is None:
        raise ValueError("a choice without logprobs")
    return logprobs if isinstance(logprobs, TokenGrid) else grid_of(logprobs, codes)


def _token_ids(reply: DecodedReply) -> list[Ids] | None:
    found: list[Ids] = []
    for choice in reply.choices:
        if choice.token_ids is not None:
            found.append(np.array(choice.token_ids, np.int64).astype(np.int32))
        elif choice.logprobs is not None and by_id(reply) is not False:
            found.append(grid(choice, None).chosen)
        else:
            return None
    return found


def says_anything(reply: DecodedReply) -> bool:
    """Whether any choice of the reply holds a token, as far as it tells its tokens."""
    return any(choice.token_ids or _steps(choice) for choice in reply.choices)
