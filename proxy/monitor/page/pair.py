"""One pair, side by side: what was asked, what each side answered, where they part, and what each scorer says of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

import orjson

from proxy.monitor.page.html import Html, Part, tag
from proxy.monitor.page.style import frame

MAX_SHOWN_CHARS = 20_000  # *choice*: what a person reads; the JSON has the rest
MAX_COMPARED_WORDS = 1_500  # *choice*, spaces counted: difflib is quadratic at worst, and the text is not ours
_WORDS = re.compile(r"\s+|\S+")
_SIDES = (("candidate", "Candidate"), ("reference", "Reference"), ("control", "Reference, second run"))


def pair_page(shown: Mapping[str, Any]) -> str:
    """The whole page of what `readable.side_by_side` gave."""
    about = f"pair {shown['id']}" + (" (needle)" if shown["kind"] == "probe" else "")
    return frame(
        f"pair {shown['id']} - parity",
        about,
        tag("section", tag("h1", "Asked"), _request(shown["request"])),
        _replies(shown),
        _scores(shown),
        _facts(shown),
        links=[tag("a", "overview", href="/")],
    )


def _facts(shown: Mapping[str, Any]) -> Html:
    facts = {
        "path": shown["path"],
        "stratum": shown["stratum"] or "unknown",
        "outcome": f"{shown['outcome']}, status {shown['status']}",
        "prompt tokens, candidate": _known(shown["prompt_tokens"]),
        "prompt tokens, reference": _known(shown["reference_prompt_tokens"]),
        "position": f"{shown['position']} in epoch {shown['epoch']}",
        "disposition": shown["disposition"] + (f", {shown['reason']}" if shown["reason"] else ""),
    }
    return tag(
        "section",
        tag("h2", "Exchange"),
        tag("dl", [(tag("dt", name), tag("dd", told)) for name, told in facts.items()]),
    )


def _scores(shown: Mapping[str, Any]) -> Html:
    numbered = [score for score in shown["scores"] if score["value"] is not None]
    without = [score for score in shown["scores"] if score["value"] is None]
    order = sorted(numbered, key=lambda score: (score["arm"] != "candidate", -score["value"], score["name"]))
    columns = ("Score", "Arm", "Value", "Explanation")
    rows = [_score(score, columns) for score in order]
    head = tag("tr", [tag("th", name, scope="col", class_="n" if name == "Value" else None) for name in columns])
    missing = ", ".join(f"{score['name']} ({score['arm']}): {score['reason']}" for score in without)
    return tag(
        "section",
        tag("h2", "Scores"),
        tag("div", tag("table", tag("thead", head), tag("tbody", rows), class_="stack"), class_="scroll")
        if rows
        else tag("p", "No score has a number."),
        tag("details", tag("summary", f"{len(without)} without a number"), tag("p", missing, class_="small"))
        if without
        else None,
    )


def _score(score: Mapping[str, Any], columns: tuple[str, ...]) -> Html:
    told: Part = None
    if score["explanation"]:
        text = _pretty(score["explanation"])
        told = tag("details", tag("summary", "why"), tag("pre", _cut(text)), class_="small")
    return tag(
        "tr",
        tag("td", score["name"], class_="name", data_label=columns[0]),
        tag("td", score["arm"], data_label=columns[1]),
        tag("td", f"{score['value']:.4g}", class_="n", data_label=columns[2]),
        tag("td", told, class_="wide", data_label=columns[3]),
    )


def _request(request: Mapping[str, Any] | None) -> Part:
    if request is None:
        return tag("p", "The bodies are not kept.", class_="dim")
    tools = request["tools"]
    return [
        tag("p", "Tools offered: ", ", ".join(tools)) if tools else None,
        tag("p", f"cannot be decoded: {request['undecodable']}", class_="chip wait")
        if request["undecodable"]
        else None,
        tag("div", _cut(request["prompt"]), class_="said", dir="auto") if request["prompt"] else None,
        _raw(request["raw"]),
    ]


def _replies(shown: Mapping[str, Any]) -> Html:
    sides = [(key, title) for key, title in _SIDES if shown[key] is not None]
    texts = {key: _first_text(shown[key]) for key, _ in sides}
    marked = _compared(texts.get("candidate", ""), texts.get("reference", ""))
    return tag(
        "div",
        [tag("section", tag("h2", title), _reply(shown[key], marked.get(key))) for key, title in sides],
        class_="cols",
    )


def _reply(reply: Mapping[str, Any], first_text: Part) -> Part:
    if reply["choices"] is None:
        return [tag("p", f"cannot be decoded: {reply['undecodable']}", class_="chip wait"), _raw(reply["raw"])]
    return [
        [_choice(choice, first_text if at == 0 else None) for at, choice in enumerate(reply["choices"])],
        _raw(reply["raw"]),
    ]


def _choice(choice: Mapping[str, Any], marked_text: Part) -> Part:
    calls = [
        tag("pre", tag("strong", call["name"]), "\n", _cut(_pretty_text(call["arguments"])), dir="auto")
        for call in choice["tool_calls"]
    ]
    return [
        tag("h3", f"Choice {choice['index']}") if choice["index"] else None,
        tag("p", tag("span", choice["finish_reason"] or "no finish reason", class_="chip")),
        tag("details", tag("summary", "reasoning"), tag("div", _cut(choice["reasoning"]), class_="said", dir="auto"))
        if choice["reasoning"]
        else None,
        tag("div", "Refused: ", _cut(choice["refusal"]), class_="said", dir="auto") if choice["refusal"] else None,
        [tag("h3", "Tool calls"), calls] if calls else None,
        tag("div", marked_text or _cut(choice["text"]), class_="said", dir="auto") if choice["text"] else None,
    ]


def _raw(raw: str) -> Html:
    return tag("details", tag("summary", "raw body"), tag("pre", _cut(_pretty_text(raw)), dir="auto"), class_="small")


def _first_text(reply: Mapping[str, Any]) -> str:
    choices = reply["choices"]
    return str(choices[0]["text"]) if choices else ""


def _compared(left: str, right: str) -> dict[str, Part]:
    """Both texts with what only one side says marked; empty when nothing is, or when it is too much to compare."""
    words = [_WORDS.findall(text) for text in (left, right)]
    if left == right or not left or not right or max(len(part) for part in words) > MAX_COMPARED_WORDS:
        return {}
    marked: tuple[list[Part], list[Part]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes():
        for out, part, mark in ((marked[0], words[0][a:b], "del"), (marked[1], words[1][c:d], "ins")):
            if part:
                out.append("".join(part) if kind == "equal" else tag("span", *part, class_=mark))
    return {"candidate": marked[0], "reference": marked[1]}


def _pretty(value: Any) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
    except TypeError:  # numbers past 64 bits, lone surrogates
        return str(value)


def _pretty_text(text: str) -> str:
    try:
        return _pretty(orjson.loads(text))
    except orjson.JSONDecodeError:
        return text


def _cut(text: str) -> str:
    if len(text) <= MAX_SHOWN_CHARS:
        return text
    return f"{text[:MAX_SHOWN_CHARS]}\n... and {len(text) - MAX_SHOWN_CHARS:,} more characters; the JSON has them"


def _known(value: int | None) -> str:
    return "unknown" if value is None else str(value)
