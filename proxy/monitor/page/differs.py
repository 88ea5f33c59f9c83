"""Two texts: where they part first, and what only one of them says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from difflib import SequenceMatcher

from proxy.monitor.page.html import Part, tag

MAX_SHOWN_CHARS = 20_000  # *choice*: what a person reads; the JSON has the rest
MAX_COMPARED_WORDS = 1_500  # *choice*, spaces counted: difflib is quadratic at worst, and the text is not ours
BEFORE_CHARS, AFTER_CHARS = 60, 120  # *choice*: of an excerpt at the divergence
_WORDS = re.compile(r"\s+|\S+")


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two texts part first. Units: `char` counts from 0, `word` from 1."""

    char: int
    word: int
    left: tuple[str, str]
    right: tuple[str, str]


def parting(left: str, right: str) -> Parting | None:
    """The first divergence, at the beginning of its word, with an excerpt (before, from there on) of either side."""
    if left == right:
        return None
    ends = min(len(left), len(right))
    same = next((at for at in range(ends) if left[at] != right[at]), ends)
    char = len(left[:same]) - len(re.split(r"\s", left[:same])[-1])
    before = left[max(0, char - BEFORE_CHARS) : char]
    return Parting(
        char,
        len(left[:char].split()) + 1,
        (before, left[char : char + AFTER_CHARS]),
        (before, right[char : char + AFTER_CHARS]),
    )


def marked(left: str, right: str) -> tuple[Part, Part]:
    """Both texts, the first divergence marked, and what only one side says; of long texts only where they part."""
    parted = parting(left, right)
    if parted is None:
        return cut(left), cut(right)
    words = [_WORDS.findall(text) for text in (left, right)]
    if not left or not right or max(len(part) for part in words) > MAX_COMPARED_WORDS:
        return _from(left, parted.char, "candidate"), _from(right, parted.char, "reference")
    out: tuple[list[Part], list[Part]] = ([], [])
    begun = False
    for kind, a, b, c, d in SequenceMatcher(None, words[0], words[1], autojunk=False).get_opcodes():
        if kind != "equal" and not begun:
            begun = True
            out[0].append(_here("candidate"))
            out[1].append(_here("reference"))
        for side, part, mark in ((out[0], words[0][a:b], "del"), (out[1], words[1][c:d], "ins")):
            if part:
                side.append("".join(part) if kind == "equal" else tag("span", *part, class_=mark))
    return out


def cut(text: str) -> str:
    """No more of a text than a person reads."""
    if len(text) <= MAX_SHOWN_CHARS:
        return text
    return f"{text[:MAX_SHOWN_CHARS]}\n... and {len(text) - MAX_SHOWN_CHARS:,} more characters; the JSON has them"


def _from(text: str, char: int, side: str) -> Part:
    return [cut(text[:char]), _here(side), cut(text[char:])] if char <= MAX_SHOWN_CHARS else cut(text)


def _here(side: str) -> Part:
    return tag("span", "parts here", class_="here", id=f"parts-{side}")
