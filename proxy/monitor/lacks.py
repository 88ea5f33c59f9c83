"""What it costs that an engine lacks something: which scores can never have a number, and what else. Pure.

One table says what each score needs of which arm; every sentence here follows from it. What bears on the scores is part
of the contract of an epoch, so a verdict that is recomputed from the ledger says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from backends.capabilities import LACKING, Capabilities, Capability, Finding
from scorers.catalogue import SPECS
from scorers.records import Arm

Lacking: TypeAlias = Mapping[str, str]
"""What one arm lacks, by capability: a finding, or "5 of 20" for lists that are only shorter than was asked."""

SIDES = ("candidate", "reference")
_C = Capability


class Need(NamedTuple):
    """One of these capabilities, on that side."""

    side: str
    one_of: tuple[Capability, ...]


def _both(*one_of: Capability) -> tuple[Need, ...]:
    return tuple(Need(side, one_of) for side in SIDES)


_TOOLS = (Need("reference", (_C.CHAT,)), Need("reference", (_C.TOOLS,)))  # a candidate without is judged for it
_LISTS = (*_both(_C.LOGPROBS), *_both(_C.TOP_LOGPROBS))

NEEDS: Mapping[str, tuple[Need, ...]] = {
    **{name: _TOOLS for name in SPECS if name.startswith("tool_")},
    "logprob_kl": _LISTS,
    "logprob_kl_max": _LISTS,
    "logprob_tv": _LISTS,
    "top1_disagreement": _LISTS,
    "tail_mass": _LISTS,
    "reference_doubt": _LISTS,
    "early_divergence": _both(_C.LOGPROBS, _C.TOKEN_IDS),
    "teacher_forced_kl": (
        Need("candidate", (_C.LOGPROBS,)),
        Need("candidate", (_C.TOKEN_IDS,)),
        Need("candidate", (_C.TOKEN_ID_KEYS,)),
        Need("reference", (_C.PROMPT_LOGPROBS,)),
    ),
    "needle_recall_loss": (Need("reference", (_C.CHAT,)),),
}
"""What a score needs before any pair can give it a number. Scores of the text alone need none of it, and what only
spoils the candidate's answers to its clients is no lack but a difference."""

BEARING = frozenset(
    {_C.TOP_LOGPROBS, _C.TOKEN_ID_KEYS, *(one for needs in NEEDS.values() for need in needs for one in need.one_of)}
)
"""What changes which numbers there are, or what they mean: part of the contract."""


class Said(NamedTuple):
    """How a lack is told: what is lacking, what it costs beside scores, and what to do."""

    what: str
    costs: str
    fix: str


_SAID: Mapping[Capability, Said] = {
    _C.CHAT: Said("chat completions", "no chat can be compared", "serve it with an OpenAI-compatible server"),
    _C.COMPLETIONS: Said(
        "plain completions", "requests to /v1/completions cannot be compared", "nothing, where clients only chat"
    ),
    _C.LOGPROBS: Said(
        "logprobs",
        "the suspect axis is told from texts and tool calls alone",
        "use an engine or a setting that returns them, or budget scores of texts and tool calls",
    ),
    _C.TOP_LOGPROBS: Said(
        "lists of that many logprobs",
        "both arms are compared by the shorter lists: more mass in the tail, and a smaller KL",
        "raise the engine's cap (vLLM: --max-logprobs), or lower mirror.top_logprobs",
    ),
    _C.TOKEN_IDS: Said(
        "the ids of its tokens",
        "whether both arms read the same prompt is told by its length alone",
        "use vLLM for this arm, or do without teacher forcing",
    ),
    _C.TOKEN_ID_KEYS: Said(
        "token ids in its logprobs",
        "both arms are compared by the text of their tokens, and tokens that share a text count as tail",
        "use vLLM or llama.cpp for this arm, or do without teacher forcing",
    ),
    _C.PROMPT_LOGPROBS: Said(
        "logprobs of given tokens",
        "KL is known on the shared beginning of two replies alone",
        "use vLLM for the reference, or set reference.teacher_forcing = false",
    ),
    _C.TOOLS: Said(
        "tools",
        "requests with tools are not answered alike",
        "start it with a tool parser (vLLM: --enable-auto-tool-choice --tool-call-parser) or a template with tools",
    ),
    _C.TOOL_CHOICE: Said(
        "a named tool_choice",
        "requests that name their tool are not answered alike",
        "nothing, where clients leave the choice to the model",
    ),
    _C.SEED: Said(
        "a seed",
        "the noise run is another run by its batch alone",
        "nothing: shadow calls are greedy, and the seed is left out",
    ),
    _C.STREAM_LOGPROBS: Said(
        "logprobs in streams",
        "a streamed reply is compared by its replay, whatever its client asked for",
        "nothing, with mirror.replay_rate above 0",
    ),
    _C.TOKENIZE: Said(
        "the tokens of a conversation",
        "another chat template is noticed by the length of prompts alone",
        "look at the templates of both arms before any weight",
    ),
    _C.VERSION: Said(
        "its version", "another engine version is noticed by its system_fingerprint, if it has one", "pin it elsewhere"
    ),
    _C.MAX_MODEL_LEN: Said("its context length", "another one is not noticed", "give both arms the same one"),
}

_FOLLOWS_FROM: Mapping[Capability, tuple[Capability, ...]] = {
    _C.TOP_LOGPROBS: (_C.LOGPROBS,),
    _C.TOKEN_ID_KEYS: (_C.LOGPROBS,),
    _C.STREAM_LOGPROBS: (_C.LOGPROBS,),
    _C.TOOL_CHOICE: (_C.TOOLS,),
    _C.TOOLS: (_C.CHAT,),
    _C.PROMPT_LOGPROBS: (_C.COMPLETIONS,),
}
"""What is lacking where something else is: one of the two is told."""

_VERBS = {Finding.IGNORED: "ignores the wish for", Finding.REFUSED: "refuses", Finding.MISSING: "has no endpoint for"}


@dataclass(frozen=True, slots=True)
class Lack:
    """One thing that one arm lacks, in one sentence."""

    arm: str
    capability: str
    finding: str
    sentence: str

    def as_dict(self) -> dict[str, str]:
        return {
            "arm": self.arm,
            "capability": self.capability,
            "finding": self.finding,
            "sentence": self.sentence,
        }


@dataclass(frozen=True, slots=True)
class Lacks:
    """What both arms lack, as a contract holds it. Empty: nothing that is known."""

    arms: Mapping[str, Lacking] = field(default_factory=dict)

    @classmethod
    def of(cls, contract: Mapping[str, Any]) -> Lacks:
        """Those of a contract; of one from before this was part of it, none."""
        return cls(contract.get("lacks") or {})

    def wholly(self, side: str, capability: Capability) -> bool:
        """Whether an arm has nothing of it at all; shorter lists are lists."""
        return self.arms.get(side, {}).get(capability) in LACKING

    def against(self, score: str, arm: Arm = "candidate") -> tuple[Need, ...]:
        """The needs of a score that are not met; of a noise pair, which has the reference on both sides, its own."""
        sides = SIDES if arm == "candidate" else SIDES[1:]
        return tuple(
            need
            for need in NEEDS.get(score, ())
            if need.side in sides and all(self.wholly(need.side, one) for one in need.one_of)
        )

    def unscorable(self, budgets: Iterable[str]) -> dict[str, str]:
        """The budgets that no pair can give a number, and why, in one sentence each."""
        told = {}
        for name in budgets:
            unmet = self.against(name)
            if unmet:
                why = "; ".join(self._told(need) for need in unmet if not self._follows(need, unmet))
                told[name] = f"no pair can give it a number: {why}; {_SAID[unmet[0].one_of[0]].fix}"
        return told

    @staticmethod
    def _follows(need: Need, unmet: Sequence[Need]) -> bool:
        """Whether another lack of the same arm says it already."""
        return any(Need(need.side, (cause,)) in unmet for one in need.one_of for cause in _FOLLOWS_FROM.get(one, ()))

    def _told(self, need: Need) -> str:
        found = self.arms[need.side]
        ways = [f"{_SAID[one].what} ({found[one]})" for one in need.one_of]
        return f"the {need.side} lacks {' and '.join(ways)}"


def lacking(of: Capabilities) -> dict[str, str]:
    """What of an arm's lacks is part of the contract. JSON-ready."""
    found = {}
    for capability in sorted(BEARING):
        if of.lacks(capability):
            short = capability is _C.TOP_LOGPROBS and of.top_logprobs is not None
            found[str(capability)] = (
                f"{of.top_logprobs} of {of.asked_top_logprobs}" if short else str(of.of(capability))
            )
    return found


def told(side: str, of: Capabilities) -> list[Lack]:
    """Every lack of an arm, with what it costs and what to do, in the order of the capabilities."""
    return [
        _lack(side, of, capability)
        for capability in Capability
        if of.lacks(capability) and not any(of.lacks(cause) for cause in _FOLLOWS_FROM.get(capability, ()))
    ]


def lack_changes(before: Mapping[str, Lacking] | None, after: Mapping[str, Lacking] | None) -> list[str]:
    """One line per lack that came, went or is another now."""
    lines = []
    for side in SIDES:
        old, new = (before or {}).get(side, {}), (after or {}).get(side, {})
        lines += [
            f"{side} {name}: {_word(old.get(name))} became {_word(new.get(name))}"
            for name in sorted(old.keys() | new.keys())
            if old.get(name) != new.get(name)
        ]
    return lines


def _word(how: str | None) -> str:
    return "had" if how is None else f"lacking ({how})"


def _lack(side: str, of: Capabilities, capability: Capability) -> Lack:
    finding, said = of.of(capability), _SAID[capability]
    named = f"the {side} ({of.engine})" if of.engine else f"the {side}"
    short = capability is _C.TOP_LOGPROBS and of.top_logprobs is not None
    verb = f"gives {of.top_logprobs} of {of.asked_top_logprobs}:" if short else _VERBS[finding]
    lost = [] if short else _lost_scores(side, capability)
    costs = [f"no number for {', '.join(lost)}"] if lost else []
    if said.costs and not (lost and capability is _C.TOP_LOGPROBS):
        costs.append(said.costs)
    why = of.why.get(capability)
    heard = f" ({why})" if why else ""
    return Lack(
        side, str(capability), str(finding), f"{named} {verb} {said.what}{heard}: {'; '.join(costs)}; {said.fix}"
    )


def _lost_scores(side: str, capability: Capability) -> Sequence[str]:
    """The scores that need it alone of this side."""
    return [name for name, needs in NEEDS.items() if Need(side, (capability,)) in needs]
