"""One pair, side by side: where its replies part, call by call and word by word, and what each scorer says of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import orjson

from proxy.monitor.page.differs import cut, marked, parting
from proxy.monitor.page.html import Html, Part, tag
from proxy.monitor.page.laid_out import calls_section, recall_section
from proxy.monitor.page.steps import Steps, reader
from proxy.monitor.page.style import frame
from proxy.monitor.page.words import figure, moment, stratum_words

Limits: TypeAlias = Mapping[str, tuple[float, str]]
"""Limit and unit of each budget."""

_SIDES = (("candidate", "Candidate"), ("reference", "Reference"), ("control", "Noise twin: the reference again"))
_SCORES = ("Score", "Candidate", "Noise twin", "Explanation")
_LONG_PROMPT_CHARS = 1_500  # *choice*: a longer one is folded away, for the replies are what is read
_RUNGS = {
    "trigger": "only one side calls a tool",
    "parse": "its arguments are no JSON",
    "schema": "a call breaks its tool's schema",
    "names": "another tool is called",
    "args_strict": "other arguments",
}


def pair_page(shown: Mapping[str, Any], steps: Steps, limits: Limits) -> str:
    """The whole page of what `readable.side_by_side` gave."""
    about = f"pair {shown['id']}" + (" (needle)" if shown["kind"] == "probe" else "")
    return frame(
        f"pair {shown['id']} - parity",
        about,
        reader(steps),
        _summary(shown, limits),
        recall_section(shown),
        calls_section(shown["calls"], shown["noise_calls"]),
        _parts(shown),
        _replies(shown),
        tag("section", tag("h2", "Asked"), _request(shown["request"]), id="asked"),
        _scores(shown),
        _facts(shown),
        links=[tag("a", "overview", href="/"), tag("a", "all pairs", href="/#pairs")],
    )


def _summary(shown: Mapping[str, Any], limits: Limits) -> Html:
    """What is wrong with it, in a line per budget, the furthest over its limit first, and which stratum it is of."""
    off = [
        score
        for score in shown["scores"]
        if score["arm"] == "candidate"
        and score["name"] in limits
        and score["value"] is not None
        and score["value"] > limits[score["name"]][0]
    ]
    off.sort(key=lambda score: (-score["value"] / limits[score["name"]][0], score["name"]))
    return tag(
        "section",
        tag("h1", "A failing pair" if off else "A pair"),
        tag("ul", [tag("li", _wrong(score, *limits[score["name"]])) for score in off])
        if off
        else tag("p", "No budget's score is over its limit here."),
        tag(
            "p",
            stratum_words(shown["stratum"] or "unknown"),
            ". Sampled ",
            moment(shown["sampled_unix_s"]),
            ". Pair ",
            tag("span", shown["id"], class_="values"),
            ", position ",
            f"{shown['position']:,}",
            ".",
            class_="small dim",
        ),
        id="pair",
    )


def _wrong(score: Mapping[str, Any], limit: float, unit: str) -> Part:
    choices = score["explanation"].get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    rung = _RUNGS.get(first.get("rung", "")) if isinstance(first, Mapping) else None
    value = tag("span", figure(score["value"], unit), class_="chip bad")
    return [tag("strong", score["name"]), " ", value, f" against {figure(limit, unit)}", f": {rung}" if rung else None]


def _parts(shown: Mapping[str, Any]) -> Part:
    """The first divergence of the two texts, with what stands around it."""
    sides = [shown[key] for key in ("candidate", "reference")]
    if any(side is None or side["choices"] is None for side in sides):
        return None
    left, right = (_first_text(side) for side in sides)
    found = parting(left, right)
    if found is None:
        return tag("section", tag("h2", "Texts"), tag("p", "Both say the same, letter by letter.")) if left else None
    rows = [
        tag(
            "tr",
            tag("th", title, scope="row"),
            tag(
                "td",
                tag("span", f"...{before}", class_="dim"),
                tag("span", after or "(ends here)", class_=mark),
                dir="auto",
                class_="wide values",
            ),
        )
        for title, (before, after), mark in (("Candidate", found.left, "del"), ("Reference", found.right, "ins"))
    ]
    return tag(
        "section",
        tag("h2", f"The texts part at word {found.word:,}"),
        tag("table", tag("tbody", rows), class_="stack"),
        tag("p", tag("a", "to that place in the whole text", href="#parts-candidate"), class_="small"),
        id="parts",
    )


def _facts(shown: Mapping[str, Any]) -> Html:
    told = {"path": shown["path"], "outcome": f"{shown['outcome']}, status {shown['status']}"}
    facts = {
        **(told if shown["kind"] == "live" else {}),  # a needle is no client's request
        "stratum": shown["stratum"] or "unknown",
        "prompt tokens, candidate": _known(shown["prompt_tokens"]),
        "prompt tokens, reference": _known(shown["reference_prompt_tokens"]),
        "reference's reply": _come_by(shown["reference_answer"]),
        "reference's tokens": _spent(shown["reference_tokens"]),
        "position": f"{shown['position']} in epoch {shown['epoch']}",
        "disposition": shown["disposition"] + (f", {shown['reason']}" if shown["reason"] else ""),
    }
    return tag(
        "section",
        tag("h2", "Exchange"),
        tag("dl", [(tag("dt", name), tag("dd", told)) for name, told in facts.items()]),
    )


def _come_by(answer: str) -> str:
    if answer == "verified":
        return "verified: every token of the reply beside it is the reference's own best, so it was not generated again"
    how, _, why = answer.partition("/")
    return (how + (f", not verified: {why.replace('_', ' ')}" if why else "")) or "none"


def _spent(tokens: Mapping[str, Mapping[str, int]]) -> str:
    told = [
        f"{name.replace('_', ' ')} {one['prefill']:,} read, {one['decode']:,} generated" for name, one in tokens.items()
    ]
    return "; ".join(told) or "none counted"


def _scores(shown: Mapping[str, Any]) -> Html:
    """Every score of the pair, and the same score of the noise twin beside it."""
    arms: dict[str, dict[str, Mapping[str, Any]]] = {"candidate": {}, "noise": {}}
    for score in shown["scores"]:
        if score["value"] is not None:
            arms[score["arm"]][score["name"]] = score
    without = [score for score in shown["scores"] if score["value"] is None]
    worst = {name: -score["value"] for name, score in arms["candidate"].items()}
    names = sorted({*arms["candidate"], *arms["noise"]}, key=lambda name: (worst.get(name, 1.0), name))
    head = tag(
        "tr", [tag("th", name, scope="col", class_="n" if at in (1, 2) else None) for at, name in enumerate(_SCORES)]
    )
    rows = [_score(name, arms["candidate"].get(name), arms["noise"].get(name)) for name in names]
    missing = ", ".join(f"{score['name']} ({score['arm']}): {score['reason']}" for score in without)
    return tag(
        "section",
        tag("h2", "Scores"),
        tag("table", tag("thead", head), tag("tbody", rows), class_="stack")
        if rows
        else tag("p", "No score has a number."),
        tag("details", tag("summary", f"{len(without)} without a number"), tag("p", missing, class_="small"))
        if without
        else None,
    )


def _score(name: str, ours: Mapping[str, Any] | None, noise: Mapping[str, Any] | None) -> Html:
    told: Part = None
    if ours is not None and ours["explanation"]:
        told = tag("details", tag("summary", "why"), tag("pre", cut(_pretty(ours["explanation"]))), class_="small")
    values = ["none" if side is None else f"{side['value']:.4g}" for side in (ours, noise)]
    return tag(
        "tr",
        tag("td", name, class_="name", data_label=_SCORES[0]),
        [tag("td", value, class_="n", data_label=label) for value, label in zip(values, _SCORES[1:], strict=False)],
        tag("td", told, class_="wide", data_label=_SCORES[3]),
    )


def _request(request: Mapping[str, Any] | None) -> Part:
    if request is None:
        return tag("p", "The bodies are not kept.", class_="dim")
    tools = request["tools"]
    prompt = request["prompt"]
    said: Part = tag("div", cut(prompt), class_="said", dir="auto", tabindex="0") if prompt else None
    if prompt and len(prompt) > _LONG_PROMPT_CHARS:
        said = tag("details", tag("summary", f"the prompt, {len(prompt):,} characters"), said)
    return [
        tag("p", "Tools offered: ", ", ".join(tools)) if tools else None,
        tag("p", f"cannot be decoded: {request['undecodable']}", class_="chip wait")
        if request["undecodable"]
        else None,
        said,
        _raw(request["raw"]),
    ]


def _replies(shown: Mapping[str, Any]) -> Html:
    sides = [(key, title) for key, title in _SIDES if shown[key] is not None]
    texts = {key: _first_text(shown[key]) for key, _ in sides}
    both = marked(texts.get("candidate", ""), texts.get("reference", ""))
    texts_marked = dict(zip(("candidate", "reference"), both, strict=True))
    return tag(
        "div",
        [
            tag("section", tag("h2", title), _twin(shown, key), _reply(shown[key], texts_marked.get(key)))
            for key, title in sides
        ],
        class_="cols",
        id="replies",
    )


def _twin(shown: Mapping[str, Any], key: str) -> Part:
    """Whether the reference's second run says what its first did."""
    if key != "control" or shown["reference"] is None or shown["reference"]["choices"] is None:
        return None
    same = _comparable(shown["control"]) == _comparable(shown["reference"])
    return tag(
        "p",
        tag(
            "span",
            "the same answer" if same else "another answer: so much is noise",
            class_="chip good" if same else "chip wait",
        ),
    )


def _comparable(reply: Mapping[str, Any]) -> Sequence[Any]:
    return [(choice["text"], choice["tool_calls"]) for choice in reply["choices"] or ()]


def _reply(reply: Mapping[str, Any], first_text: Part) -> Part:
    if reply["choices"] is None:
        return [tag("p", f"cannot be decoded: {reply['undecodable']}", class_="chip wait"), _raw(reply["raw"])]
    return [
        [_choice(choice, first_text if at == 0 else None) for at, choice in enumerate(reply["choices"])],
        _raw(reply["raw"]),
    ]


def _choice(choice: Mapping[str, Any], marked_text: Part) -> Part:
    calls = [
        tag("pre", tag("strong", call["name"]), "\n", cut(_pretty_text(call["arguments"])), dir="auto", tabindex="0")
        for call in choice["tool_calls"]
    ]
    return [
        tag("h3", f"Choice {choice['index']}") if choice["index"] else None,
        tag("p", tag("span", "ended by: ", choice["finish_reason"] or "unknown", class_="chip")),
        tag("details", tag("summary", "reasoning"), tag("div", cut(choice["reasoning"]), class_="said", dir="auto"))
        if choice["reasoning"]
        else None,
        tag("div", "Refused: ", cut(choice["refusal"]), class_="said", dir="auto") if choice["refusal"] else None,
        calls,
        tag("div", marked_text or cut(choice["text"]), class_="said", dir="auto", tabindex="0")
        if choice["text"]
        else None,
    ]


def _raw(raw: str) -> Html:
    return tag("details", tag("summary", "raw body"), tag("pre", cut(_pretty_text(raw)), dir="auto"), class_="small")


def _first_text(reply: Mapping[str, Any]) -> str:
    choices = reply["choices"]
    return str(choices[0]["text"]) if choices else ""


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


def _known(value: int | None) -> str:
    return "unknown" if value is None else str(value)
