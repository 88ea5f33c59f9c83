"""Tool items over everyday tools, whose arguments people give in natural wording."""
# ruff: noqa: SIM905 - a list of words reads best as a text

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from backends.emulator.tasks import words
from backends.emulator.tasks.draw import Draw
from backends.emulator.tasks.everyday import ENTRIES
from backends.emulator.tasks.item import Tool
from backends.emulator.tasks.schemas import Param, Spec, join_name

_OPTIONAL = re.compile(r"\[([^\]]*)\]")
_SLOT = re.compile(r"\{(\d)\}")
_FORMS = {"num": "float", "phone": "str", "path": "str", "expr": "str", "noun": "str", "ticker": "str", "pick": "str"}
_POLITE = (
    "{}",
    "{}",
    "{}",
    "{}",
    "please {}",
    "hi, {}",
    "hey, {}",
    "{}, please",
    "hello! {}",
    "could you help? {}",
    "quick one: {}",
)


@dataclass
class Domain:
    """An everyday tool with its chosen names: `forms` say how values are drawn, `templates` how people ask."""

    entry: str
    spec: Spec
    forms: list[str]
    templates: list[str]

    @property
    def action(self) -> str:
        """Returns the phrase for what it does."""
        return self.spec.action

    def tool(self, d: Draw) -> Tool:
        """Returns it as OpenAI's `tools` hold it."""
        return self.spec.tool(d)

    def demand(self, d: Draw) -> tuple[str, dict[str, Any]]:
        """Returns a request in words, and the call that answers it."""
        template = d.pick(self.templates)
        values = {i: drawn(d, form, p) for i, (form, p) in enumerate(zip(self.forms, self.spec.params, strict=True))}
        text, used = fill(template, {i: v[0] for i, v in values.items()}, self._given(d, template))
        return d.pick(_POLITE).format(text), self._call({i: v[1] for i, v in values.items() if i in used})

    def demand_many(self, d: Draw, count: int) -> tuple[str, list[dict[str, Any]]]:
        """Returns one request that names several values of the first parameter, and its calls."""
        template = d.pick(self.templates)
        given = self._given(d, template)
        values = {i: drawn(d, form, p) for i, (form, p) in enumerate(zip(self.forms, self.spec.params, strict=True))}
        firsts = [drawn(d, self.forms[0], self.spec.params[0]) for _ in range(count)]
        quote = d.pick(('" and "', '", "')) if '"{0}"' in template else "' and '" if "'{0}'" in template else " and "
        shown = {i: v[0] for i, v in values.items()} | {0: quote.join(f[0] for f in firsts)}
        text, used = fill(template, shown, given)
        calls = [self._call({i: v[1] for i, v in (values | {0: first}).items() if i in used}) for first in firsts]
        return text, calls

    def _given(self, d: Draw, template: str) -> set[int]:
        optional = {int(n) for part in _OPTIONAL.findall(template) for n in _SLOT.findall(part)}
        return {i for i in optional if d.chance(0.5)}

    def _call(self, values: dict[int, Any]) -> dict[str, Any]:
        return {
            "name": self.spec.name,
            "arguments": {p.name: values[i] for i, p in enumerate(self.spec.params) if i in values},
        }


def fill(template: str, shown: dict[int, str], given: set[int]) -> tuple[str, set[int]]:
    """Returns the template with its values in, and which parameters it names."""

    def part(match: re.Match[str]) -> str:
        inner = match.group(1)
        return inner if {int(n) for n in _SLOT.findall(inner)} <= given else ""

    text = _OPTIONAL.sub(part, template)
    used = {int(n) for n in _SLOT.findall(text)}
    return _SLOT.sub(lambda m: shown[int(m.group(1))], text), used


def drawn(d: Draw, form: str, p: Param) -> tuple[str, Any]:
    """Returns a value as the request shows it, and as the call holds it."""
    head, _, rest = form.partition(":")
    if head == "bool":
        yes = d.chance(0.5)
        on, off = rest.split("|")
        return (on if yes else off), yes
    if head in ("enum", "pick"):
        value: Any = d.pick(rest.split("|"))
    elif head == "num":
        value = d.decimal() if d.chance(0.4) else abs(d.integer())
    elif head == "int":
        value = abs(d.integer()) or 1
    elif head == "ticker":
        value = d.pseudo(1).upper()[:4]
    elif head == "phone":
        value = d.pick(("", "+", "0")) + d.digits(6, 10)
    elif head == "path":
        value = "/".join(
            [d.pick(("", "/home", "/tmp", "src", "data")), *(d.word(words.NOUNS, 0.5) for _ in range(d.randint(1, 2)))]
        ) + d.pick((".txt", ".md", ".py", ".csv", ".json", ".log", ""))
    elif head == "expr":
        value = f"{d.integer()} {d.pick('+-*/')} {abs(d.integer())}"
    elif head == "noun":
        value = d.word(words.NOUNS, 0.5)
    else:
        value = p.value(d)
    return str(value), value


@cache
def _parsed() -> tuple[tuple[list[str], list[str], str, list[list[str]], list[str]], ...]:
    return tuple(
        (v.split(), n.split(), text, [p.rsplit(" ", 2) if ":" not in p else _split(p) for p in params], asks)
        for v, n, text, params, asks in ENTRIES
    )


def _split(text: str) -> list[str]:
    names, rest = text.split(" ", 1)
    kind, need = rest.rsplit(" ", 1)
    return [names, kind, need]


def spec(d: Draw) -> Domain:
    """Returns an everyday tool with a name of this split."""
    while True:
        verbs, nouns, purpose, params, templates = d.pick(_parsed())
        verb, noun = d.pick(verbs), d.pick(nouns)
        parts = [verb, *noun.split("_")]
        if d.chance(0.12):
            parts.append(d.pick(("now", "api", "tool", "v2", "for_user", "info")))
        elif d.chance(0.1):
            parts = [d.pick(("my", "app", "home", "smart", d.pseudo())), *parts]
        name = join_name(parts, d.randrange(10)) if d.chance(0.93) else d.pseudo() + "_" + noun
        if d.mine(name):
            break
    described = d.chance(0.85)
    text = purpose + d.pick(("", "", ".", ".", " for the user.", " by name.")) if described else None
    out: list[Param] = []
    forms: list[str] = []
    taken: set[str] = set()
    for names, form, need in params:
        free = [n for n in names.split("|") if n not in taken]
        chosen = d.pick(free) if d.chance(0.6) else free[0]
        taken.add(chosen)
        head, _, rest = form.partition(":")
        options = rest.split("|") if head == "enum" or (head == "pick" and d.chance(0.25)) else []
        cue = chosen.replace("_", " ")
        note = (
            d.pick(
                (
                    f"The {cue}",
                    f"{cue.capitalize()}",
                    f"The {cue}.",
                    f"{cue.capitalize()} of the request",
                    f"Which {cue}",
                )
            )
            if d.chance(0.6)
            else None
        )
        if note and head == "city" and d.chance(0.5):
            note = d.pick(("The name of the city", "City name", "Name of the city, e.g. Paris", "The city to look up"))
        kind = "enum" if options else _FORMS.get(head, head)
        out.append(Param(chosen, cue, kind, note, need == "!", options))
        forms.append(form)
    return Domain(purpose, Spec(name, f"{verb} {noun.replace('_', ' ')}", out, text), forms, templates)


_COMMON = frozenset(
    "get the a an for set find check send create add show my to of in on use this by name tool with given user".split()
)


def about(name: str, description: str | None) -> set[str]:
    """Returns the words that say what a tool is for."""
    return {w.lower() for w in re.findall(r"[A-Z]?[a-z]+", f"{name} {description or ''}")} - _COMMON
