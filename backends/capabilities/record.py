"""What was found of one engine: one finding per capability, and the few numbers that belong to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Capability(StrEnum):
    """What the product can make use of. A closed set: it labels metrics."""

    CHAT = "chat"  # POST /v1/chat/completions
    COMPLETIONS = "completions"  # POST /v1/completions
    LOGPROBS = "logprobs"  # of each generated token of a chat
    TOP_LOGPROBS = "top_logprobs"  # lists as long as mirror.top_logprobs asks for
    TOKEN_IDS = "token_ids"  # return_token_ids: the ids of the prompt and of the reply
    TOKEN_ID_KEYS = "token_id_keys"  # logprob entries that name their tokens by id
    PROMPT_LOGPROBS = "prompt_logprobs"  # of given token ids, by /v1/completions: teacher forcing
    TOOLS = "tools"  # offered tools reach the prompt
    TOOL_CHOICE = "tool_choice"  # a named tool is called
    SEED = "seed"  # is taken; whether it is obeyed is not asked
    STREAM_LOGPROBS = "stream_logprobs"
    TOKENIZE = "tokenize"  # POST /tokenize of a conversation
    VERSION = "version"  # GET /version
    MAX_MODEL_LEN = "max_model_len"  # in GET /v1/models


class Finding(StrEnum):
    """What became of the question. A closed set."""

    HAS = "has"
    IGNORED = "ignored"  # answered as if it had not been asked
    REFUSED = "refused"  # an error to the request that asks for it, and none to the one that does not
    MISSING = "missing"  # there is no such endpoint
    UNKNOWN = "unknown"  # no answer that says anything: unreachable, overloaded, our key refused, never asked


LACKING = frozenset({Finding.IGNORED, Finding.REFUSED, Finding.MISSING})


@dataclass(frozen=True, slots=True)
class Capabilities:
    """One engine's, as found by so many `requests`. `why` holds what an error said, one bounded line each.

    `top_logprobs` is how many entries a list holds at most (None: unknown or no lists), of `asked_top_logprobs`.
    `engine` is what the server calls itself in GET /v1/models (`owned_by`), "" where it says nothing.
    """

    findings: Mapping[Capability, Finding] = field(default_factory=dict)
    asked_top_logprobs: int = 0
    top_logprobs: int | None = None
    max_model_len: int | None = None
    engine: str = ""
    why: Mapping[Capability, str] = field(default_factory=dict)
    requests: int = 0

    def of(self, capability: Capability) -> Finding:
        """What was found; unknown where nothing was."""
        return self.findings.get(capability, Finding.UNKNOWN)

    def lacks(self, capability: Capability) -> bool:
        """Whether it is known not to be there. What is unknown is neither had nor lacked."""
        return self.of(capability) in LACKING

    @property
    def answered(self) -> bool:
        """Whether nothing is unknown for want of an answer; what follows from a lack need not be asked."""
        unknown = {capability for capability, finding in self.findings.items() if finding is Finding.UNKNOWN}
        return bool(self.findings) and not unknown & self.why.keys()

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "findings": {str(capability): str(self.of(capability)) for capability in Capability},
            "asked_top_logprobs": self.asked_top_logprobs,
            "top_logprobs": self.top_logprobs,
            "max_model_len": self.max_model_len,
            "engine": self.engine,
            "why": {str(capability): line for capability, line in self.why.items()},
            "requests": self.requests,
        }
