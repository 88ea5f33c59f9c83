"""Tool items over invented tools: which of those on offer to call, and with which arguments."""

from __future__ import annotations

import json
from typing import Any

from training import chat, domains, words
from training.draw import Draw
from training.item import SYSTEM_PROMPTS, Item, Message, Tool, calls, says, user
from training.schemas import NUMBER_WORDS, Param, Spec, spec

NO_TOOL = "I have no tool for that."


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
        quote = d.pick("\"\"'")
        return f"{quote}{text}{quote}"
    return text


def mention(d: Draw, p: Param, value: Any) -> str:
    """Returns a few words that give `value` to `p`."""
    c = p.name if d.chance(0.15) else p.cue
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
    if p.kind in bare and d.chance(0.15) and c in ("city", "guest", "date", "time", "email", "recipient", "day", "place"):
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
        return f"{action.capitalize() if d.chance(0.5) else action} with {json.dumps(arguments, ensure_ascii=False)}", call
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
    return head + d.pick((" with ", " with ", " with ", ", ", ": ", " using ", ", with ", " where ", " and use ", " - ", " for ", " ")) + listing(d, parts), call


def sentence(d: Draw, text: str) -> str:
    """Returns `text` as a whole message: capital and mark added or not, as people do."""
    if d.chance(0.85):
        text = text[0].upper() + text[1:]
    return text + d.pick(("", ".", ".", ".", "?" if "ou " in text[:12] else ".", " please." if d.chance(0.3) else "!"))


def framed(d: Draw, messages: list[Message]) -> list[Message]:
    """Returns `messages`, half of the time under a system prompt."""
    return [{"role": "system", "content": d.pick(SYSTEM_PROMPTS)}, *messages] if d.chance(0.5) else messages


def offer(d: Draw, wanted: list[Tool], count: int, most_params: int, near: list[Spec]) -> list[Tool]:
    """Returns `wanted` among others, `count` in all where that is more, in random order, every name once."""
    out = list(wanted)
    names = {t["function"]["name"].lower() for t in out}
    while len(out) < count:
        if d.chance(0.25):
            other = domains.spec(d).tool(d)
        else:
            other = spec(d, most_params, d.pick(near) if near and d.chance(0.3) else None).tool(d)
        if other["function"]["name"].lower() not in names:
            names.add(other["function"]["name"].lower())
            out.append(other)
    d.shuffle(out)
    return out


def one(d: Draw, most_tools: int, most_params: int) -> tuple[str, list[dict[str, Any]], list[Tool], list[Spec]]:
    """Returns a request for one or more calls, the calls, the tools they need, and the invented ones among these."""
    number = 1 if d.chance(0.78) or most_tools < 2 else 2 if d.chance(0.85) else 3
    texts, wanted, tools, near = [], [], [], []
    same = d.chance(0.4)
    everyday = d.chance(0.4)
    s: Spec | domains.Domain | None = None
    for _ in range(number):
        if s is None or not same:
            s = domains.spec(d) if everyday else spec(d, most_params)
            tools.append(s.tool(d))
        if isinstance(s, Spec):
            near.append(s)
            text, call = demand(d, s)
        else:
            text, call = s.demand(d)
        texts.append(text)
        wanted.append(call)
    if number > 1 and same and isinstance(s, domains.Domain) and d.chance(0.5):
        text, wanted = s.demand_many(d, number)
        texts = [text]
    joined = texts[0]
    for text in texts[1:]:
        joined += d.pick((" and ", " and also ", ", then ", ". Also ", ". Then ", " and then ", ". And ", "; ", ", and ", "\n", ". After that ")) + text
    unique = {json.dumps(c, sort_keys=True) for c in wanted}
    names = {t["function"]["name"].lower() for t in tools}
    if len(unique) != number or len(names) != len(tools):
        return one(d, most_tools, most_params)
    return sentence(d, joined), wanted, tools, near


def tool_item(d: Draw, most_tools: int = 6, most_params: int = 5) -> Item:
    """Returns an item with tools on offer; kinds `tool_one`, `tool_parallel` and `tool_none`."""
    count = d.randint(1, most_tools)
    if d.chance(0.17):
        return no_call_item(d, count, most_params)
    text, wanted, tools, near = one(d, most_tools, most_params)
    tools = offer(d, tools, count, most_params, near)
    history: list[Message] = []
    if d.chance(0.08):
        history = chat.exchange(d)[0]
    messages = framed(d, [*history, user(text), calls(wanted)])
    return Item("tool_one" if len(wanted) == 1 else "tool_parallel", messages, {"tool_calls": wanted}, tools)


def no_call_item(d: Draw, count: int, most_params: int) -> Item:
    """Returns an item whose tools do not fit: a refusal, or the plain answer to a plain question."""
    if d.chance(0.45):
        turn, contains = chat.exchange(d)
        tools = offer(d, [], count, most_params, [])
        return Item("tool_none", framed(d, turn), {"tool_calls": [], "contains": contains}, tools)
    text, wanted, _, near = one(d, 1, most_params)
    if d.chance(0.25):
        text = chat.off_topic(d)
        near = []
    missing = {c["name"].lower() for c in wanted}
    tools = [t for t in offer(d, [], count + 1, most_params, []) if t["function"]["name"].lower() not in missing]
    tools = [t for t in tools if not domains.alike(t, wanted[0]["name"])][:count]
    if not tools:
        return no_call_item(d, count, most_params)
    return Item("tool_none", framed(d, [user(text), says(NO_TOOL)]), {"tool_calls": []}, tools)


def result_item(d: Draw, most_tools: int = 4, most_params: int = 3) -> Item:
    """Returns an item whose last question was answered by a tool: the result has to be told."""
    text, wanted, tools, near = one(d, 1, most_params)
    tools = offer(d, tools, d.randint(1, most_tools), most_params, near)
    key = d.word(words.PARAMS, 0.4)
    value = d.pick((d.integer(), d.decimal(), d.ident(), d.word(words.NOUNS, 0.5)))
    shown = str(value)
    payload: Any = {key: value}
    if d.chance(0.3):
        payload = {"status": "ok", key: value}
    content = json.dumps(payload) if d.chance(0.8) else f"{key}: {shown}"
    messages = [user(text), calls(wanted), {"role": "tool", "tool_call_id": "call_0", "content": content}]
    answer = f"The {key.replace('_', ' ')} is {shown}."
    return Item("tool_result", framed(d, [*messages, says(answer)]), {"tool_calls": [], "contains": [shown]}, tools)
