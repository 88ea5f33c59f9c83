"""Invented tools: names, descriptions, typed parameters with values, and the JSON schema that offers them."""
# ruff: noqa: SIM905 - a list of words reads best as a text

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from backends.emulator.tasks import words
from backends.emulator.tasks.draw import Draw
from backends.emulator.tasks.item import Tool

NUMBER_WORDS = ("zero one two three four five six seven eight nine ten eleven twelve").split()


@dataclass
class Param:
    """A parameter: `cue` is what people call it, `kind` says how values are drawn."""

    name: str
    cue: str
    kind: str
    description: str | None = None
    required: bool = True
    options: list[str] = field(default_factory=list)
    opaque: bool = False

    def schema(self) -> dict[str, Any]:
        """Returns its JSON schema."""
        types = {"int": "integer", "float": "number", "bool": "boolean", "list": "array"}
        out: dict[str, Any] = {"type": types.get(self.kind, "string")}
        if self.kind == "list":
            out["items"] = {"type": "string"}
        if self.options:
            out["enum"] = self.options
        if self.description is not None:
            out["description"] = self.description
        return out

    def value(self, d: Draw) -> Any:
        """Returns a fresh value of its kind."""
        match self.kind:
            case "int":
                return d.integer()
            case "float":
                return d.decimal() if d.chance(0.85) else d.integer()
            case "bool":
                return d.chance(0.5)
            case "enum":
                return d.pick(self.options)
            case "list":
                return [d.word(words.NOUNS, 0.4) for _ in range(d.pick((1, 2, 2, 3)))]
            case "ident":
                return d.ident()
            case "phrase":
                return d.phrase()
            case "city":
                return d.city()
            case "person":
                return d.person()
            case "date":
                return d.date()
            case "time":
                return d.clock()
            case "email":
                return d.email()
        return d.word(words.NOUNS, 0.6) if d.chance(0.7) else d.pseudo().capitalize()


@dataclass
class Spec:
    """A tool: `action` is the phrase for what it does, as in `book a hotel`."""

    name: str
    action: str
    params: list[Param]
    description: str | None

    def tool(self, d: Draw) -> Tool:
        """Returns it as OpenAI's `tools` hold it, with the small freedoms that clients take."""
        parameters: dict[str, Any] = {"type": "object", "properties": {p.name: p.schema() for p in self.params}}
        required = [p.name for p in self.params if p.required]
        if required or d.chance(0.5):
            parameters["required"] = required
        if d.chance(0.06):
            parameters["additionalProperties"] = False
        function: dict[str, Any] = {"name": self.name}
        if self.description is not None or d.chance(0.5):
            function["description"] = self.description
        function["parameters"] = parameters
        if d.chance(0.04):
            function["strict"] = d.chance(0.5)
        return {"type": "function", "function": function}


def join_name(parts: list[str], style: int) -> str:
    """Returns the words `parts` as an identifier: snake case, camel case, Pascal case or kebab case."""
    if style < 6:
        return "_".join(parts)
    if style < 8:
        return parts[0] + "".join(p.capitalize() for p in parts[1:])
    return "".join(p.capitalize() for p in parts) if style == 8 else "-".join(parts)


def param(d: Draw, style: int, taken: set[str]) -> Param:
    """Returns an invented parameter; neither its name nor what people call it is in `taken`."""
    while True:
        first = d.word(words.PARAMS, 0.3)
        parts = first.split("_")
        if d.chance(0.25):
            parts = [d.word(words.NOUNS, 0.3), *parts]
        cue = " ".join(parts)
        name = join_name(parts, style if style < 8 else 0)
        if cue not in taken:
            break
    taken |= {name, cue}
    kind = d.pick(("str", "str", "ident", "phrase", "city", "person", "date", "time", "email", "int", "int", "int",
                   "float", "float", "bool", "bool", "enum", "enum", "enum", "list"))  # fmt: skip
    if kind == "list" and d.chance(0.4):
        kind = "str"
    natural = {"city": "city destination origin place", "person": "guest owner recipient", "date": "date day",
               "time": "time start", "email": "email recipient"}  # fmt: skip
    if kind in natural and d.chance(0.5):
        plain = [w for w in natural[kind].split() if w not in taken]
        if plain:
            cue = name = d.pick(plain)
            taken.add(name)
    options: list[str] = []
    if kind == "enum":
        source = words.ADJECTIVES if d.chance(0.6) else words.NOUNS
        options = list(dict.fromkeys(d.word(source, 0.3) for _ in range(d.randint(2, 5))))
        if len(options) < 2:
            kind, options = "str", []
    opaque = d.chance(0.06)
    if opaque:
        name = d.pick(("p", "arg", "x", "field_")) + d.digits(1, 2)
        if name in taken:
            opaque, name = False, cue.replace(" ", "_")
        taken.add(name)
    described = opaque or d.chance(0.6)
    description = d.pick((
        f"The {cue}", f"The {cue}.", f"{cue.capitalize()}", f"{cue.capitalize()} to use", f"Which {cue} to use",
        f"The {cue} of the request", f"Value of the {cue}", f"{cue.capitalize()} as given by the user",
    )) if described else None  # fmt: skip
    if description and kind == "bool":
        description = d.pick((f"Whether {cue} is on", f"Enable {cue}", f"The {cue} flag", f"True for {cue}"))
    if description and kind == "enum" and d.chance(0.3):
        description += " (" + ", ".join(options) + ")"
    return Param(name, cue, kind, description, d.chance(0.65), options, opaque)


def spec(d: Draw, most_params: int, near: Spec | None = None) -> Spec:
    """Returns an invented tool; with `near`, one whose name shares a word with it, to be told apart."""
    style = d.randrange(10)
    verb, noun = d.word(words.VERBS, 0.3), d.word(words.NOUNS, 0.4)
    if near is not None:
        old = near.action.split()
        if d.chance(0.5):
            verb = old[0]
        else:
            noun = old[-1]
    parts = [verb, noun]
    adjective = d.word(words.ADJECTIVES, 0.3) if d.chance(0.2) else ""
    if adjective:
        parts.insert(1, adjective)
    action = (
        " ".join([verb, d.pick(("a", "the", "the", "my", "")), adjective, noun]).replace("  ", " ").replace("  ", " ")
    )
    name = join_name(parts, style)
    opaque = d.chance(0.07)
    if opaque:
        name = d.pick(("fn_", "tool_", "f", "op-", "")) + d.pseudo() + d.pick(("", d.digits(1, 3)))
    elif d.chance(0.08):
        name = d.pick(("api_", "do_", "svc_", "tool_")) + name
    elif d.chance(0.05):
        name += d.pick(("_v2", "_now", "_api", "_by_name"))
    thing = " ".join(p for p in (d.pick(("a", "the", "some", "")), adjective, noun) if p)
    described = opaque or d.chance(0.85)
    description = d.pick((
        f"{verb.capitalize()} {thing}", f"{verb.capitalize()} {thing}.", f"{verb.capitalize()} {thing}.",
        f"Use this to {verb} {thing}.", f"{verb.capitalize()}s {thing} for the user", f"Tool to {verb} {thing}",
        f"{verb.capitalize()} {thing} with the given options.", f"Can {verb} {thing} in the {d.pseudo()} system.",
    )) if described else None  # fmt: skip
    taken: set[str] = set()
    count = d.pick((0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 4, 4, 5))
    params = [param(d, style, taken) for _ in range(min(count, most_params))]
    return Spec(name, action, params, description)
