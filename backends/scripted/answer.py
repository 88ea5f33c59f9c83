"""What the scripted model says: a pure function of the prompt, the wish, a variant and the planted faults.

Variant 0 is the greedy answer. Other variants are what sampling, or a batch that rounds differently, makes of it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from backends.dialect.ask import Wish
from backends.scripted.faults import Fault
from backends.scripted.structured import instance
from backends.scripted.template import Prompt, call_text
from backends.scripted.tokens import mix
from backends.scripted.tools import Call, choose, fill

LONG_TOKENS = 512  # *choice*: from here on a lost needle can show; shorter prompts stay clean, as with a KV cache
_READ_CHARS = 4_000  # *choice*: how much of a question is matched with tools

_ASKED = re.compile(r"(?:what is|what was|give me|tell me|find) the ([\w' -]{3,80}?)\s*[?.]", re.IGNORECASE)
_TERSE = re.compile(r"\bonly\b", re.IGNORECASE)
_QUOTABLE = re.compile(r"\b[A-Z]{2,}-\d{2,}\b|\b\d{4,}\b|\b\d+\.\d+\b")
_WORDS = re.compile(r"[A-Za-z]{4,}")
_OPENINGS = (
    "Here is what I can say about it.",
    "That depends on what you want to do with it.",
    "In short, it works as described.",
    "There are two things to keep in mind.",
    "Yes, and the reason is simple.",
    "Let me put it plainly.",
    "The usual way is to start small.",
    "It is worth checking the first step twice.",
)
_MIDDLES = (
    "The part about {a} matters more than the rest",
    "Most people begin with {a} and come to {b} later",
    "If {a} is in place, then {b} follows",
    "Think of {a} as the frame and of {b} as the picture",
    "What {a} gives, {b} can take away",
)
_SOURCES = ("The text mentions {q}", "I found {q} in it", "It refers to {q}", "See {q} there")


@dataclass(frozen=True, slots=True)
class Answer:
    """Raw text as generated; `calls` as (name, arguments) when it is nothing but tool calls; the faults that showed."""

    text: str
    calls: tuple[tuple[str, str], ...] = ()
    struck: frozenset[Fault] = frozenset()


def answer(prompt: Prompt, wish: Wish, *, variant: int = 0, faults: frozenset[Fault] = frozenset()) -> Answer:
    """The answer to a prompt. Equal arguments give equal answers, in every process."""
    calls = _calls(prompt, wish)
    if calls:
        return _tool_answer(prompt, calls, variant, faults)
    seed = mix(prompt.state ^ variant)
    struck = frozenset({Fault.TEXT}) & faults
    rng = random.Random(mix(seed ^ 0x7E47) if struck else seed)
    if wish.schema is not None:
        return Answer(_json(prompt, wish.schema, rng), struck=struck)
    if wish.options:
        return Answer(rng.choice(wish.options), struck=struck)
    lost = Fault.NEEDLE in faults and len(prompt.ids) >= LONG_TOKENS
    found = _recalled(prompt, lost=lost)
    if found is not None:
        return Answer(found, struck=frozenset({Fault.NEEDLE}) if lost else frozenset())
    ending = random.Random(mix(prompt.state ^ variant ^ (0xE4D if Fault.PHRASE in faults else 0)))
    first = random.Random(mix(prompt.state ^ (0x7E47 if struck else 0)))
    text, quoted = _prose(prompt, first, ending, lost=lost)
    showed = struck | (faults & {Fault.PHRASE}) | (frozenset({Fault.NEEDLE}) if lost and quoted else frozenset())
    return Answer(text, struck=showed)


def corrupt(value: str) -> str:
    """Another value of the same look: every digit moved, or the letters reversed where there is no digit."""
    moved = re.sub(r"\d", lambda digit: str((int(digit.group()) + 3) % 10), value)
    return moved if moved != value else value[::-1] if value[::-1] != value else value + "x"


def _calls(prompt: Prompt, wish: Wish) -> list[Call]:
    if not prompt.tools or wish.tool_choice == "none":
        return []
    question = prompt.question[-_READ_CHARS:]
    if wish.tool_choice == "named":
        named = [tool for tool in prompt.tools if tool.get("name") == wish.tool]
        return [Call(wish.tool, fill(named[0].get("parameters"), question))] if named else []
    must = wish.tool_choice == "required"
    if not must and prompt.turns[-1].role != "user":
        return []  # a tool has answered: now it is time to speak
    return choose(question, prompt.tools, must=must, parallel=wish.parallel)


def _tool_answer(prompt: Prompt, calls: Sequence[Call], variant: int, faults: frozenset[Fault]) -> Answer:
    names = [str(tool.get("name")) for tool in prompt.tools]
    first = calls[0]
    struck = faults & {Fault.TOOL_NAME, Fault.TOOL_ARGUMENT, Fault.TOOL_SYNTAX}
    if Fault.TOOL_NAME in struck:
        others = [name for name in names if name != first.name]
        first = Call(others[prompt.state % len(others)] if others else first.name + "_v2", first.arguments)
    if Fault.TOOL_ARGUMENT in struck or variant % 8 == 1:  # *choice*: one sampled variant in eight slips
        first = Call(first.name, _slip(first, prompt))
    written = [(call.name, orjson.dumps(call.arguments).decode()) for call in (first, *calls[1:])]
    if Fault.TOOL_SYNTAX in struck:
        written[0] = (written[0][0], written[0][1].removesuffix("}") + ',"')
    return Answer("\n".join(call_text(*one) for one in written), tuple(written), struck)


def _slip(call: Call, prompt: Prompt) -> dict[str, Any]:
    """The arguments with one value wrong, or one that does not belong where there was none."""
    if not call.arguments:
        return {"extra": 1}
    name = sorted(call.arguments)[prompt.state % len(call.arguments)]
    value = call.arguments[name]
    tool = next((one for one in prompt.tools if one.get("name") == call.name), {})
    parameters = tool.get("parameters")
    properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
    schema = properties.get(name) if isinstance(properties, Mapping) else None
    others = [one for one in schema.get("enum") or () if one != value] if isinstance(schema, Mapping) else []
    return {**call.arguments, name: others[0] if others else _another(value)}


def _another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 7
    if isinstance(value, list):
        return value[:-1] if value else [0]
    return {} if isinstance(value, dict) and value else corrupt(str(value))


def _json(prompt: Prompt, schema: Mapping[str, Any], rng: random.Random) -> str:
    words = _WORDS.findall(prompt.question[-_READ_CHARS:]) or ["value"]
    value = instance(schema, words, rng) if schema else {"answer": rng.choice(words), "score": rng.randrange(100)}
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()


def _recalled(prompt: Prompt, *, lost: bool) -> str | None:
    """The value that the prompt gives for what the question asks, when it does."""
    asked = _ASKED.findall(prompt.question[-_READ_CHARS:])
    if not asked:
        return None
    name = asked[-1]
    said = re.search(rf"\bthe {re.escape(name)} is ([\w-]+(?:\.\d+)?)", prompt.text, re.IGNORECASE)
    if said is None:
        return None
    value = corrupt(said.group(1)) if lost else said.group(1)
    return value if _TERSE.search(prompt.question[-200:]) else f"The {name} is {value}."


def _prose(prompt: Prompt, first: random.Random, ending: random.Random, *, lost: bool) -> tuple[str, bool]:
    """A few sentences about the question, and whether they quote the prompt. `ending` writes the last of them: two
    answers that differ in it alone share everything before."""
    words = list(dict.fromkeys(word.lower() for word in _WORDS.findall(prompt.question[-_READ_CHARS:]))) or ["it"]
    sentences = [first.choice(_OPENINGS)]
    sentences += [_middle(words, first) for _ in range(first.randrange(2))]
    long = len(prompt.ids) >= LONG_TOKENS
    quotable = list(dict.fromkeys(_QUOTABLE.findall(prompt.text)))
    quotes = first.sample(quotable, min(len(quotable), 3)) if long or first.random() < 0.5 else []
    sentences += [first.choice(_SOURCES).format(q=corrupt(quote) if lost else quote) + "." for quote in quotes]
    return " ".join([*sentences, _middle(words, ending)]), bool(quotes)


def _middle(words: Sequence[str], rng: random.Random) -> str:
    return rng.choice(_MIDDLES).format(a=rng.choice(words), b=rng.choice(words)) + "."
