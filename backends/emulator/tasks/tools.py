"""Tool items over invented tools: which of those on offer to call, and with which arguments."""
# ruff: noqa: E501 - tables of wording read best in rows

from __future__ import annotations

import json
import re
from typing import Any

from backends.emulator.tasks import chat, domains, words
from backends.emulator.tasks.draw import Draw
from backends.emulator.tasks.item import SYSTEM_PROMPTS, Item, Message, calls, says, user
from backends.emulator.tasks.schemas import NUMBER_WORDS, Param, Spec, spec

NO_TOOL = "I have no tool for that."
_JOINS = (
    " and ",
    " and also ",
    ", then ",
    ". Also ",
    ". Then ",
    " and then ",
    ". And ",
    "; ",
    ", and ",
    "\n",
    ". After that ",
)

Offered = Spec | domains.Domain


def plain(d: Draw, p: Param, value: Any) -> str:
    """Returns `value` as a person would write it inside a sentence."""
    if isinstance(value, bool):
        return d.pick(("true", "yes", "on")) if value else d.pick(("false", "no", "off"))
    if isinstance(value, list):
        return " and ".join(value) if len(value) < 3 else ", ".join(value[:-1]) + " and " + value[-1]
    if isinstance(value, int) and 0 <= value <= 12 and d.chance(0.12):
        return NUMBER_WORDS[value]
    text = str(value)
    if p.kind == "phrase" or (isinstance(value, str) and d.chance(0.2)):
        quote = d.pick('""\'')
        return f"{quote}{text}{quote}"
    return text


def mention(d: Draw, p: Param, value: Any) -> str:
    """Returns a few words that give `value` to `p`."""
    c = p.name if d.chance(0.15) and not p.opaque else p.cue
    if isinstance(value, bool) and d.chance(0.75):
        if value:
            return d.pick((f"with {c}", f"{c} on", f"{c} enabled", f"enable {c}", f"{c} turned on", f"make it {c}"))
        return d.pick((f"without {c}", f"{c} off", f"{c} disabled", f"disable {c}", f"no {c}", f"not {c}"))
    v = plain(d, p, value)
    if p.kind == "enum" and d.chance(0.35):
        return d.pick((f"{v} {c}", f"in {v} {c}", v, f"the {v} one", f"with {v} {c}"))
    if p.kind == "int" and d.chance(0.15) and value > 0:
        return d.pick((f"{v} {c}", f"{v} {c}s", f"for {v} {c}"))
    bare = {"city": "in {} |to {}|from {}|near {}|for {}", "person": "for {}|with {}|to {}", "date": "on {}|for {}",
            "time": "at {}", "email": "to {}|for {}"}  # fmt: skip
    if (
        p.kind in bare
        and d.chance(0.15)
        and c in ("city", "guest", "date", "time", "email", "recipient", "day", "place")
    ):
        return d.pick(bare[p.kind].split("|")).format(v).strip()
    return d.pick((
        f"{c} {v}", f"{c} {v}", f"{c} = {v}", f"{c}={v}", f"{c}: {v}", f"{c} of {v}", f"{c} is {v}",
        f"{c} set to {v}", f"a {c} of {v}", f"the {c} {v}", f"the {c} is {v}", f"{v} as the {c}", f"{v} as {c}",
        f"{c} should be {v}", f"{v} for the {c}", f"set {c} to {v}", f"{c} to {v}", f"use {v} as {c}",
        f"the {c} should be {v}", f"the {c} must be {v}", f"let the {c} be {v}", f"and {c} {v}".removeprefix("and "),
    ))  # fmt: skip


def listing(d: Draw, parts: list[str]) -> str:
    """Returns `parts` as one enumeration."""
    if len(parts) == 1:
        return parts[0]
    style = d.randrange(4)
    if style == 0:
        return ", ".join(parts)
    if style == 1:
        return " and ".join(parts)
    return ", ".join(parts[:-1]) + d.pick((" and ", ", and ")) + parts[-1]


def demand(d: Draw, s: Spec) -> tuple[str, dict[str, Any]]:
    """Returns a request for `s` in words, and the call that answers it."""
    given = [(p, p.value(d)) for p in s.params if p.required or d.chance(0.45)]
    arguments = {p.name: v for p, v in given}
    call = {"name": s.name, "arguments": arguments}
    action = s.action
    if d.chance(0.2):
        action = " ".join(w for w in action.split() if w not in ("a", "the", "my"))
    by_name = d.chance(0.15)
    if by_name:
        action = d.pick((f"call {s.name}", f"use {s.name}", f"run {s.name}", f"invoke {s.name}", f"use the {s.name} tool",
                         f"call the {s.name} function", f"execute {s.name}", f"use the tool {s.name}"))  # fmt: skip
    if by_name and given and d.chance(0.25):
        return (
            f"{action.capitalize() if d.chance(0.5) else action} with {json.dumps(arguments, ensure_ascii=False)}",
            call,
        )
    d.shuffle(given)
    parts = [mention(d, p, v) for p, v in given]
    head = d.pick((
        action, action, action, f"please {action}", f"can you {action}", f"could you {action}", f"I want to {action}",
        f"I need to {action}", f"I'd like to {action}", f"I would like you to {action}", f"help me {action}",
        f"go ahead and {action}", f"we need to {action}", f"{action} for me", f"it is time to {action}", f"now {action}",
        f"would you {action}", f"let us {action}", f"I need you to {action}", f"you should {action}",
    ))  # fmt: skip
    if not parts:
        return head, call
    style = d.random()
    if style < 0.08:
        return f"{head}:\n" + "\n".join(f"- {m}" for m in parts), call
    if style < 0.2:
        return f"{d.pick(('with ', 'for ', 'using ', ''))}{listing(d, parts)}, {head}", call
    return head + d.pick(
        (" with ", " with ", " with ", ", ", ": ", " using ", ", with ", " where ", " and use ", " - ", " for ", " ")
    ) + listing(d, parts), call


def sentence(d: Draw, text: str) -> str:
    """Returns `text` as a whole message: capital and mark added or not, as people do."""
    if d.chance(0.85):
        text = text[0].upper() + text[1:]
    return text + d.pick(("", ".", ".", ".", "?" if "ou " in text[:12] else ".", " please." if d.chance(0.3) else "!"))


def framed(d: Draw, messages: list[Message]) -> list[Message]:
    """Returns `messages`, half of the time under a system prompt."""
    return [{"role": "system", "content": d.pick(SYSTEM_PROMPTS)}, *messages] if d.chance(0.5) else messages


def subject(s: Offered) -> tuple[str, str]:
    """Returns what a tool is about: two tools on offer never share it, or no request could tell them apart."""
    if isinstance(s, domains.Domain):
        return s.entry, ""
    words_of = s.action.split()
    return words_of[0], words_of[-1]


def offered(d: Draw, count: int, most_params: int) -> list[Offered]:
    """Returns `count` tools, invented and everyday ones, some of them near to another."""
    out: list[Offered] = []
    names: set[str] = set()
    subjects: set[tuple[str, str]] = set()
    everyday = d.pick((0.0, 0.15, 0.4, 0.7, 1.0))
    for _ in range(8 * count):  # a held-out split can run out of names: then there are fewer tools
        if len(out) == count:
            break
        made: Offered
        if d.chance(everyday):
            made = domains.spec(d)
        else:
            near = [s for s in out if isinstance(s, Spec)]
            made = spec(d, most_params, d.pick(near) if near and d.chance(0.3) else None)
        name = re.sub(r"[^a-z0-9]", "", name_of(made).lower())
        if name not in names and subject(made) not in subjects:
            names.add(name)
            subjects.add(subject(made))
            out.append(made)
    return out


def name_of(s: Offered) -> str:
    """Returns the name of the tool."""
    return s.spec.name if isinstance(s, domains.Domain) else s.name


def asked(d: Draw, s: Offered) -> tuple[str, dict[str, Any]]:
    """Returns a request for `s` in words, and the call that answers it."""
    return s.demand(d) if isinstance(s, domains.Domain) else demand(d, s)


def several(d: Draw, specs: list[Offered], number: int) -> tuple[str, list[dict[str, Any]]]:
    """Returns one request for `number` calls of `specs`, and the calls; one tool twice, or different ones.

    Fewer calls where the tools leave no room for different ones, such as one tool without parameters.
    """
    for _ in range(6):
        same = len(specs) < number or d.chance(0.4)
        chosen = [d.pick(specs)] * number if same else d.sample(specs, number)
        first = chosen[0]
        if same and isinstance(first, domains.Domain) and d.chance(0.5):
            text, wanted = first.demand_many(d, number)
        else:
            made = [asked(d, s) for s in chosen]
            wanted = [call for _, call in made]
            text = made[0][0]
            for more, _ in made[1:]:
                text += d.pick(_JOINS) + more
        if len({json.dumps(c, sort_keys=True) for c in wanted}) == number:
            return text, wanted
    text, call = asked(d, d.pick(specs))
    return text, [call]


def missing(d: Draw, specs: list[Offered], most_params: int) -> str:
    """Returns a request that none of `specs` can serve."""
    if d.chance(0.25):
        return chat.off_topic(d)
    about = set().union(
        *(
            domains.about(name_of(s), s.spec.description if isinstance(s, domains.Domain) else s.description)
            for s in specs
        )
    )
    for _ in range(20):
        other = offered(d, 1, most_params)[0]
        action = other.action if isinstance(other, Spec) else other.entry
        if not about & domains.about(f"{name_of(other)} {action}", None):
            return asked(d, other)[0]
    return chat.off_topic(d)


def turn(d: Draw, specs: list[Offered], most_params: int) -> tuple[str, list[Message], dict[str, Any]]:
    """Returns kind, messages and expectation of one question to an assistant that has `specs`."""
    share = d.random()
    if share < 0.08:
        messages, contains = chat.exchange(d)
        return "tool_none", messages, {"tool_calls": [], "contains": contains}
    if share < 0.2:
        return "tool_none", [user(sentence(d, missing(d, specs, most_params))), says(NO_TOOL)], {"tool_calls": []}
    if share < 0.8:
        text, call = asked(d, d.pick(specs))
        return "tool_one", [user(sentence(d, text)), calls([call])], {"tool_calls": [call]}
    text, wanted = several(d, specs, 2 if d.chance(0.85) else 3)
    kind = "tool_parallel" if len(wanted) > 1 else "tool_one"
    return kind, [user(sentence(d, text)), calls(wanted)], {"tool_calls": wanted}


def result(d: Draw, number: int) -> tuple[list[Message], list[str]]:
    """Returns the results of `number` calls with the assistant's words on them, and what these must contain."""
    messages: list[Message] = []
    answers, shown = [], []
    for i in range(number):
        key = d.word(words.PARAMS, 0.4)
        value: Any = d.pick((d.integer(), d.decimal(), d.ident(), d.word(words.NOUNS, 0.5), d.city()))
        payload = {"status": "ok", key: value} if d.chance(0.3) else {key: value}
        content = json.dumps(payload) if d.chance(0.8) else f"{key}: {value}"
        messages.append({"role": "tool", "tool_call_id": f"call_{i}", "content": content})
        answers.append(f"The {key.replace('_', ' ')} is {value}.")
        shown.append(str(value))
    return [*messages, says(" ".join(answers))], shown


def tool_item(d: Draw, most_tools: int = 6, most_params: int = 5, turns: int = 1) -> Item:
    """Returns an item with tools on offer; kinds `tool_one`, `tool_parallel` and `tool_none`, after its last turn."""
    specs = offered(d, d.randint(1, most_tools), most_params)
    messages: list[Message] = []
    for i in range(turns):
        kind, more, expected = turn(d, specs, most_params)
        messages += more
        if i < turns - 1 and "tool_calls" in more[-1] and d.chance(0.3):
            messages += result(d, len(more[-1]["tool_calls"]))[0]
    return Item(kind, framed(d, messages), expected, [s.tool(d) for s in specs])


def result_item(d: Draw, most_tools: int = 4, most_params: int = 3) -> Item:
    """Returns an item whose last question was answered by tools: the results have to be told; kind `tool_result`."""
    specs = offered(d, d.randint(1, most_tools), most_params)
    number = 1 if d.chance(0.85) else 2
    text, wanted = several(d, specs, number)
    told, shown = result(d, len(wanted))
    messages = [user(sentence(d, text)), calls(wanted), *told]
    return Item("tool_result", framed(d, messages), {"tool_calls": [], "contains": shown}, [s.tool(d) for s in specs])
