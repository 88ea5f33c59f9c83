"""Planted needles: a sampled long chat with a fact hidden in it, asked of both arms; never a client's request.

Whether one is planted depends on the request and on a coin of its own, never on an answer, so it is planned for
requests at any temperature. Source of the method: metrology 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from backends.capabilities import Asking
from backends.shape import NeedleCall, Refusal, shape_needle
from proxy.monitor.plan import Coins, Plan, asking_all, estimated_tokens, seed_of
from proxy.settings import Settings
from scorers.decode import DecodeError, decode_request
from scorers.records import DecodedRequest, Probe

MIN_PROMPT_TOKENS = 512  # choice: below it every model finds the needle, and nothing is learned
CHAT_PATH = "/v1/chat/completions"


def probe_plan(
    id: str,
    request: DecodedRequest,
    coins: Coins,
    headers: Mapping[str, str],
    settings: Settings,
    refused: int = 0,
    arms: tuple[Asking, Asking] | None = None,
) -> Plan | None:
    """The plan of a needle in this request's prompt; None when the coin, its kind or its length says no.

    `refused` is the 4xx with which the candidate refused the request, or 0.
    """
    if not coins.needle or request.kind != "chat" or estimated_tokens(request) < MIN_PROMPT_TOKENS:
        return None
    on_candidate, on_reference = arms or asking_all(settings)
    candidate = _needle(id, request, settings.candidate.model, on_candidate)
    reference = _needle(id, request, settings.reference.model, on_reference)
    if candidate is None or reference is None:
        return None
    try:
        asked = decode_request(CHAT_PATH, reference.call.body)
    except DecodeError:
        return None
    return Plan(
        id=id,
        path=CHAT_PATH,
        request=replace(asked, stream=request.stream, greedy=request.greedy),  # the parent's cell of traffic
        request_body=reference.call.body,
        coins=replace(coins, teacher_forced=False),
        headers=headers,
        reference=reference.call,
        replay=candidate.call,
        control=reference.call if coins.noise else None,
        refused=refused,
        probe=Probe(reference.needle, reference.answer, reference.depth_ratio, estimated_tokens(request)),
    )


def _needle(id: str, request: DecodedRequest, model: str | None, arm: Asking) -> NeedleCall | None:
    call = shape_needle(
        request.body,
        CHAT_PATH,
        model=model,
        top_logprobs=arm.top_logprobs,
        leave_out=arm.leave_out,
        seed=seed_of(id, "needle"),
    )
    return None if isinstance(call, Refusal) else call
