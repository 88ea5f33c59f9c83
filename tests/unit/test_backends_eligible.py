"""Which requests are mirrored: every refusal by its reason, and nothing that should pass is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.eligible import MAX_CHOICES, Refusal, RefusalReason, classify, is_greedy

CHAT = "/v1/chat/completions"
HI = [{"role": "user", "content": "hi"}]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        (CHAT, {"messages": HI}, "chat"),
        (CHAT + "?timeout=5", {"messages": HI}, "chat"),
        (CHAT, {"messages": HI, "n": MAX_CHOICES, "tools": [], "stream": True}, "chat"),
        (CHAT, {"messages": HI, "modalities": ["text"], "use_beam_search": False, "echo": False}, "chat"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "chat"),
        ("/v1/completions", {"prompt": "hi"}, "completion"),
        ("/v1/completions", {"prompt": [1, 2, 3], "best_of": 1}, "completion"),
    ],
)
def test_eligible(path: str, body: dict[str, Any], kind: str) -> None:
    assert classify(path, body) == kind


@pytest.mark.parametrize(
    ("path", "body", "reason", "detail"),
    [
        ("/v1/embeddings", {"input": "x"}, RefusalReason.PATH, "path"),
        ("/v1/chat/completions/render", {"messages": HI}, RefusalReason.PATH, "path"),
        (CHAT, [1], RefusalReason.BAD_REQUEST, "not_an_object"),
        (CHAT, {}, RefusalReason.BAD_REQUEST, "messages"),
        (CHAT, {"messages": []}, RefusalReason.BAD_REQUEST, "messages"),
        (CHAT, {"messages": ["hi"]}, RefusalReason.BAD_REQUEST, "messages"),
        (CHAT, {"messages": HI, "n": 0}, RefusalReason.BAD_REQUEST, "n"),
        (CHAT, {"messages": HI, "n": True}, RefusalReason.BAD_REQUEST, "n"),
        (CHAT, {"messages": HI, "n": "2"}, RefusalReason.BAD_REQUEST, "n"),
        ("/v1/completions", {}, RefusalReason.BAD_REQUEST, "prompt"),
        (CHAT, {"messages": HI, "n": MAX_CHOICES + 1}, RefusalReason.UNSUPPORTED, "n"),
        (CHAT, {"messages": HI, "use_beam_search": True}, RefusalReason.UNSUPPORTED, "beam_search"),
        ("/v1/completions", {"prompt": "x", "best_of": 3}, RefusalReason.UNSUPPORTED, "beam_search"),
        ("/v1/completions", {"prompt": "x", "echo": True}, RefusalReason.UNSUPPORTED, "echo"),
        (CHAT, {"messages": HI, "prompt_logprobs": 0}, RefusalReason.UNSUPPORTED, "prompt_logprobs"),
        (CHAT, {"messages": HI, "modalities": ["text", "audio"]}, RefusalReason.UNSUPPORTED, "audio"),
        (CHAT, {"messages": HI, "audio": {"voice": "x"}}, RefusalReason.UNSUPPORTED, "audio"),
        (
            CHAT,
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            RefusalReason.UNSUPPORTED,
            "audio",
        ),
        ("/v1/completions", {"prompt": ["a", "b"]}, RefusalReason.UNSUPPORTED, "several_prompts"),
        ("/v1/completions", {"prompt": [[1], [2]]}, RefusalReason.UNSUPPORTED, "several_prompts"),
        ("/v1/completions", {"prompt": "", "prompt_embeds": "x"}, RefusalReason.UNSUPPORTED, "prompt_embeds"),
    ],
)
def test_refused(path: str, body: object, reason: RefusalReason, detail: str) -> None:
    assert classify(path, body) == Refusal(reason, detail)


@given(
    st.sampled_from([CHAT, "/v1/completions"]),
    st.dictionaries(
        st.sampled_from(
            ["messages", "prompt", "n", "best_of", "echo", "modalities", "audio", "prompt_logprobs", "prompt_embeds"]
        ),
        JSON,
    ),
)
def test_any_body_gets_an_answer(path: str, body: dict[str, Any]) -> None:
    assert classify(path, body) in ("chat", "completion") or isinstance(classify(path, body), Refusal)


@pytest.mark.parametrize(
    ("temperature", "greedy"),
    [(0, True), (0.0, True), (1e-6, True), (1e-5, False), (0.7, False), (None, False), (False, False), ("0", False)],
)
def test_greedy_is_what_vllm_takes_for_it(temperature: object, greedy: bool) -> None:
    assert is_greedy({"temperature": temperature}) is greedy


def test_a_request_without_temperature_is_sampled() -> None:
    assert not is_greedy({})
