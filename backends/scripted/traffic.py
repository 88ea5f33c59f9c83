"""Requests of the kinds that production sends, for the demo and for tests: an endless, seeded stream.

Every body names the path it goes to. Kinds: one tool call, several at once, a question that no offered tool fits, a
fact to find in a long report, plain talk, JSON to a schema, a completion. Two in three are greedy, half are streamed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

Body: TypeAlias = dict[str, Any]

GREEDY = 2 / 3  # *choice*: enough of both, since only greedy replies are compared as served
STREAMED = 0.5  # *choice*

_CITIES = ("Paris", "Lisbon", "Oslo", "Nairobi", "Quito", "Hanoi", "Tallinn", "Adelaide", "Porto", "Kyoto")
_TOPICS = ("compilers", "sourdough bread", "tidal power", "chess openings", "urban trees", "old clocks", "river deltas")
_STYLES = ("in simple words", "for a child", "briefly", "with one example", "as a list", "to a colleague")
_PEOPLE = ("Amara", "Bruno", "Chen", "Dalia", "Emil", "Farah", "Goran", "Hana")
_SUBJECTS = ("amber anchor", "silent quarry", "lunar beacon", "rugged depot", "violet harbor", "western tunnel")
_REPORT = (
    "On day {n} the team at station {s} logged {m} readings and found nothing unusual.",
    "Shipment PK-{m} left dock {n} with {s} crates and arrived the next morning.",
    "The inspector noted that valve {s} was replaced after {n} hours of service.",
    "Record TR-{m} was closed by the night shift; the queue held {n} items at that time.",
    "Temperature stayed near {s} degrees, and the backup line carried {n} percent of the load.",
)


def _tool(name: str, description: str, required: tuple[str, ...], **properties: dict[str, Any]) -> Body:
    schema = {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "description": description, "parameters": schema}}


_STRING, _INTEGER, _NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
TOOLS = (
    _tool("get_weather", "Weather forecast of a city", ("city",), city=_STRING, days=_INTEGER,
          unit={"type": "string", "enum": ["celsius", "fahrenheit"]}),
    _tool("book_flight", "Book a flight to a destination", ("destination", "passengers"),
          destination=_STRING, date={"type": "string", "format": "date"}, passengers=_INTEGER,
          cabin={"type": "string", "enum": ["economy", "business"]}),
    _tool("convert_currency", "Convert an amount of money between currencies", ("amount", "source", "target"),
          amount=_NUMBER, source={"type": "string", "enum": ["EUR", "USD", "GBP"]},
          target={"type": "string", "enum": ["JPY", "CHF", "SEK"]}),
    _tool("track_order", "Track the status of an order", ("order",), order=_STRING),
    _tool("create_ticket", "Create a support ticket", ("title", "priority"), title=_STRING,
          priority={"type": "string", "enum": ["low", "normal", "urgent"]}),
)  # fmt: skip
_REPORT_SCHEMA = {
    "type": "object",
    "properties": {
        "title": _STRING,
        "score": {"type": "integer", "minimum": 0, "maximum": 10},
        "tags": {"type": "array", "items": _STRING, "minItems": 1, "maxItems": 3},
        "status": {"type": "string", "enum": ["open", "closed"]},
    },
    "required": ["title", "score", "tags", "status"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True)
class Sent:
    """One request: where it goes, its kind, and its body as a client would build it."""

    path: str
    kind: str
    body: Body


def sent(seed: int, model: str = "m") -> Iterator[Sent]:
    """An endless stream of requests. Equal seeds give equal streams."""
    rng = random.Random(seed)
    makers, weights = [maker for maker, _ in _MIX], [weight for _, weight in _MIX]
    while True:
        maker = rng.choices(makers, weights)[0]
        body = {"model": model, **maker(rng)}
        if rng.random() < GREEDY:
            body["temperature"] = 0
        else:
            body |= {"temperature": 0.7, "seed": rng.randrange(1 << 31)}
        if rng.random() < STREAMED:
            body["stream"] = True
            if rng.random() < 0.5:
                body["stream_options"] = {"include_usage": True}
        path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
        yield Sent(path, maker.__name__.removeprefix("_"), body)


def requests(seed: int, model: str = "m") -> Iterator[Body]:
    """The bodies alone: chats have `messages`, completions have `prompt`."""
    return (one.body for one in sent(seed, model))


def _single(rng: random.Random) -> Body:
    return _chat(_step(rng), tools=_some_tools(rng))


def _parallel(rng: random.Random) -> Body:
    return _chat("; ".join(_step(rng) for _ in range(rng.randrange(2, 4))), tools=_some_tools(rng))


def _none_fits(rng: random.Random) -> Body:
    return _chat(f"Explain {rng.choice(_TOPICS)} {rng.choice(_STYLES)}, please.", tools=_some_tools(rng))


def _talk(rng: random.Random) -> Body:
    said = (
        f"{rng.choice(_PEOPLE)} asks about {rng.choice(_TOPICS)} {rng.choice(_STYLES)}, case {rng.randrange(10_000)}."
    )
    return {**_chat(said), "max_tokens": 200}


def _long(rng: random.Random) -> Body:
    """A report with facts in it and a question for one of them; 500 to 6,000 tokens."""
    lines = [
        rng.choice(_REPORT).format(n=rng.randrange(100), s=rng.randrange(100), m=rng.randrange(1_000, 10_000))
        for _ in range(rng.choice((20, 40, 80, 200)))
    ]
    subjects = rng.sample(_SUBJECTS, 3)
    for subject in subjects:
        lines.insert(rng.randrange(len(lines)), f"The {subject} access code is {rng.randrange(100_000, 1_000_000)}.")
    question = (
        f"What is the {subjects[0]} access code? Answer with the code only."
        if rng.random() < 0.7
        else "Summarize the report and name the records that matter."
    )
    report = {"role": "user", "content": "Read this report.\n" + "\n".join(lines)}
    return {"messages": [report, {"role": "assistant", "content": "I have read it."}, _user(question)]}


def _json(rng: random.Random) -> Body:
    asked = f"Describe {rng.choice(_TOPICS)} {rng.choice(_STYLES)} as JSON, entry {rng.randrange(10_000)}."
    wanted = {"type": "json_schema", "json_schema": {"name": "report", "strict": True, "schema": _REPORT_SCHEMA}}
    return {**_chat(asked), "response_format": wanted if rng.random() < 0.8 else {"type": "json_object"}}


def _completion(rng: random.Random) -> Body:
    return {"prompt": f"{rng.choice(_PEOPLE)} wrote {rng.randrange(10_000)} words about {rng.choice(_TOPICS)}. ",
            "max_tokens": rng.choice((16, 32, 64))}  # fmt: skip


def _step(rng: random.Random) -> str:
    city, number = rng.choice(_CITIES), rng.randrange(2, 90)
    return rng.choice(
        (
            f'Get the weather forecast for "{city}" over {number % 8 + 2} days'
            f" in {rng.choice(('celsius', 'fahrenheit'))}",
            f'Book a flight to "{city}" on 2026-{number % 12 + 1:02d}-14 for {number % 5 + 1} passengers in'
            f" {rng.choice(('economy', 'business'))}",
            f"Convert the amount {number * 10} from {rng.choice(('EUR', 'USD', 'GBP'))} to"
            f" {rng.choice(('JPY', 'CHF', 'SEK'))} currency",
            f"Track the order OR-{number * 1_009} and its status",
            f'Create a support ticket "Printer {number} is down"'
            f" with {rng.choice(('low', 'normal', 'urgent'))} priority",
        )
    )


def _some_tools(rng: random.Random) -> list[Body]:
    return rng.sample(TOOLS, len(TOOLS))[: rng.randrange(3, len(TOOLS) + 1)] if rng.random() < 0.3 else list(TOOLS)


def _user(text: str) -> Body:
    return {"role": "user", "content": text}


def _chat(text: str, *, tools: list[Body] | None = None) -> Body:
    messages = [{"role": "system", "content": "You are the desk of a small company."}, _user(text)]
    return {"messages": messages} if tools is None else {"messages": messages, "tools": tools}


# Shares are a *choice*: tool calls dominate, because the workload that the demo's budgets guard is an agent's.
_MIX: tuple[tuple[Callable[[random.Random], Body], float], ...] = (
    (_single, 0.30),
    (_parallel, 0.12),
    (_none_fits, 0.06),
    (_long, 0.22),
    (_talk, 0.15),
    (_json, 0.10),
    (_completion, 0.05),
)
