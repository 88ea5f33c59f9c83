"""A pair's tool calls, argument by argument, and the place in the prompt of what should have been recalled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proxy.monitor.page.html import Html, Part, tag

_FATES = {
    "same": "the same",
    "changed": "changed",
    "reworded": "reworded free text, which does not count",
    "added": "only here",
    "missing": "missing",
}
_COLUMNS = ("Argument", "What became of it", "Candidate", "Reference")
_WIDTH = 360.0


def calls_section(calls: Sequence[Mapping[str, Any]] | None, noise: Sequence[Mapping[str, Any]] | None) -> Part:
    """The structural difference of the calls; nothing where neither side calls."""
    if not calls:
        return None
    twin: Part = None
    if noise is not None:
        same = all(call["fate"] == "same" for call in noise)
        said = "calls the same as the first" if same else "calls otherwise than the first: so much is noise"
        twin = tag("p", "Noise twin: the reference, asked again, ", tag("strong", said), ".", class_="small")
    return tag(
        "section",
        tag("h2", "Tool calls"),
        [_call(number, call) for number, call in enumerate(calls, 1)],
        twin,
        id="calls",
    )


def _call(number: int, call: Mapping[str, Any]) -> Html:
    left, right = call["left"], call["right"]
    name: Part = tag("span", right if left is None else left, class_="values")
    if left is not None and right is not None and left != right:
        name = [tag("span", left, class_="values del"), " instead of ", tag("span", right, class_="values ins")]
    fate = {
        "added": "the reference makes no such call",
        "missing": "the candidate makes no such call",
        "same": "the same",
        "changed": "another tool" if left != right else "other arguments",
    }[call["fate"]]
    kind = "good" if call["fate"] == "same" else "bad"
    head = tag("tr", [tag("th", column, scope="col") for column in _COLUMNS])
    rows = [_path(path) for path in call["paths"]]
    return tag(
        "article",
        tag("h3", f"Call {number}: ", name, " ", tag("span", fate, class_=f"chip {kind}")),
        tag("table", tag("thead", head), tag("tbody", rows), class_="stack"),
    )


def _path(path: Mapping[str, Any]) -> Html:
    left, right = path["left"], path["right"]
    types = left["type"] != right["type"] if left and right else False
    fate = _FATES[path["fate"]]
    if types and path["fate"] == "changed":
        fate = f"changed from {right['type']} to {left['type']}"
    cells = (tag("span", path["path"], class_="values"), fate, _value(left), _value(right))
    return tag(
        "tr",
        [tag("td", cell, data_label=column) for cell, column in zip(cells, _COLUMNS, strict=True)],
        class_=path["fate"],
    )


def _value(told: Mapping[str, str] | None) -> Html:
    if told is None:
        return tag("span", "none", class_="dim")
    return tag("span", tag("span", told["value"], class_="values"), " ", tag("span", told["type"], class_="dim small"))


def recall_section(shown: Mapping[str, Any]) -> Part:
    """Where the facts stood in the prompt; nothing where the pair is not about recall."""
    recall, needle = shown["recall"], _needle(shown)
    if recall is None and needle is None:
        return None
    facts: list[Mapping[str, Any]] = list(recall["facts"]) if recall else []
    places = [(fact["place"], fact["said"]) for fact in facts]
    if not places and needle is not None:
        places = [(needle["depth_ratio"], needle["found"]["left"])]
    tokens = shown["reference_prompt_tokens"]
    length = needle["length"] if needle else (shown["stratum"] or "unknown").split("/")[0]
    how = [f"{tokens:,} tokens by the reference's count"] if tokens else []
    how += [f"{recall['prompt_chars']:,} characters"] if recall else []
    gone = sum(not said for _, said in places)
    what = "The planted needle" if shown["kind"] == "probe" else "What the reference read far back in the prompt"
    if gone:
        told = (
            f"{what} stands {_deep([place for place, said in places if not said])}, and the candidate does not say it."
        )
    else:
        told = f"{what} is said by the candidate too."
    return tag(
        "section",
        tag("h2", "Recall"),
        tag("p", told),
        _bar(places, told),
        tag(
            "p",
            f"The prompt has {', '.join(how) or 'an unknown length'}; its bucket, by its text, is {length}.",
            class_="small dim",
        ),
        tag("ul", [tag("li", _fact(fact)) for fact in facts]) if facts else None,
        id="recall",
    )


def _needle(shown: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the needle's scorer said of this pair, when it looks as it should."""
    for score in shown["scores"]:
        told = score["explanation"]
        if score["name"] != "needle_recall_loss" or score["arm"] != "candidate":
            continue
        depth, found, length = told.get("depth_ratio"), told.get("found"), told.get("length")
        if (
            isinstance(depth, float | int)
            and isinstance(length, str)
            and isinstance(found, Mapping)
            and "left" in found
        ):
            return {"depth_ratio": float(depth), "found": found, "length": length}
    return None


def _deep(places: Sequence[float]) -> str:
    deep = [f"{place:.0%}" for place in places[:4]]
    return f"{' and '.join(deep)} into the prompt"


def _bar(places: Sequence[tuple[float, bool]], told: str) -> Html:
    """The prompt from its beginning to its end, and the facts in it."""
    marks = [
        tag("rect", x="0.5", y="14", width=f"{_WIDTH - 1:g}", height="16", rx="3", class_="prompt"),
        [
            tag(
                "rect",
                x=f"{min(max(place, 0.0), 1.0) * (_WIDTH - 5):.1f}",
                y="10",
                width="5",
                height="24",
                class_="fact" if said else "fact gone",
            )
            for place, said in reversed(places)
        ],
        tag("text", "beginning", x="0", y="46"),
        tag("text", "end, the question", x=f"{_WIDTH:g}", y="46", text_anchor="end"),
    ]
    for place, said in places[:1]:
        at = min(max(place, 0.0), 1.0) * (_WIDTH - 5) + 2.5
        anchor = "start" if at < 60 else "end" if at > _WIDTH - 60 else "middle"
        word = f"{place:.0%}, " + ("said" if said else "not said")
        marks.append(tag("text", word, x=f"{at:.1f}", y="8", text_anchor=anchor, class_="axis" if said else "over"))
    return tag("svg", marks, viewBox=f"0 0 {_WIDTH:g} 50", role="img", aria_label=told, class_="place")


def _fact(fact: Mapping[str, Any]) -> Part:
    kind = "good" if fact["said"] else "bad"
    return [
        tag("span", "said" if fact["said"] else "not said", class_=f"chip {kind}"),
        f" {fact['place']:.0%}: ",
        tag(
            "q",
            tag("span", f"...{fact['before']}", class_="dim"),
            tag("strong", fact["text"]),
            tag("span", f"{fact['after']}...", class_="dim"),
            dir="auto",
        ),
    ]
