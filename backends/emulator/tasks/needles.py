"""Needle items: facts `the <key phrase> is <value>`, alone in a list or hidden in filler, and a question at the end."""
# ruff: noqa: E501 - tables of wording read best in rows

from __future__ import annotations

from dataclasses import dataclass

from backends.emulator.tasks import words
from backends.emulator.tasks.draw import Draw
from backends.emulator.tasks.filler import filler
from backends.emulator.tasks.item import SYSTEM_PROMPTS, Item, Message, says, user

CHARS_PER_TOKEN = 1.9
"""Characters of filler per token of the shipped tokenizer, roughly; `training.tokenizer` prints the measured ones."""

_ASKS = (
    "What is {k}?", "What is {k}?", "What is {k}?", "What's {k}?", "Tell me {k}.", "Give me {k}.", "Please tell me {k}.",
    "What was {k}?", "Which value does {k} have?", "What value was given for {k}?", "Do you remember {k}?",
    "According to the text, what is {k}?", "Find {k}.", "Look up {k}.", "I need {k}.", "State {k}.", "{k}?", "Recall {k}.",
    "What is {k} mentioned in the text?", "What is {k} in the text above?", "Answer the question: what is {k}?",
    "Based on the document, what is {k}?", "Can you tell me {k}?", "Retrieve {k} from the text.", "what is {k}",
    "Question: What is {k}?", "Report {k}.", "Which one is {k}?", "Read the text and tell me {k}.", "How much is {k}?",
    "Using only the text above, what is {k}?", "What does the text say {k} is?", "I forgot {k}, what is it?",
    "What is the value of {k}?", "Return {k} only.", "What is {k} mentioned in the provided text?",
)  # fmt: skip
_TELLS = (
    "{k} is {v}.", "{k} is {v}.", "{k} is {v}.", "{k} is {v}.", "{k}: {v}", "{k} = {v}", "Remember that {k} is {v}.",
    "Note: {k} is {v}.", "Note that {k} is {v}.", "{k} was {v}.", "Please remember: {k} is {v}.", "By the way, {k} is {v}.",
    "Important: {k} is {v}.", "{k} has the value {v}.", "{k} is now {v}.", "It is known that {k} is {v}.", "{k} - {v}",
    "Keep in mind that {k} is {v}.", "{k} is set to {v}.", "Do not forget: {k} is {v}.", "Fact: {k} is {v}.", "{k} equals {v}.",
)  # fmt: skip


@dataclass(frozen=True)
class Fact:
    """A key phrase with its value; `other` is a second wording of the same key phrase."""

    key: str
    value: str
    other: str

    @property
    def bare(self) -> str:
        """Returns the value without quotes."""
        return self.value.strip('"')


def _value(d: Draw, style: int) -> str:
    if style < 4:
        return d.digits(2, 7)
    if style < 8:
        return d.ident()
    if style == 8:
        return f'"{d.phrase(1, 3)}"'
    return d.pick((d.pseudo(), d.word(words.NOUNS, 0.4), d.city(), d.person(), f"{d.pseudo()} {d.pseudo()}"))


def facts(d: Draw, count: int) -> list[Fact]:
    """Returns `count` facts; their keys differ, their wording is of one family or mixed."""
    family = d.randrange(9)
    value_style = d.randrange(10)
    mixed = d.chance(0.25)
    head = d.word(words.FACT_HEADS, 0.15)
    start = (
        d.pick(("access", "secret", "special", "launch", "door", "magic", "security", "user", "locker", ""))
        if d.chance(0.5)
        else ""
    )
    out: dict[str, Fact] = {}
    while len(out) < count:
        if mixed:
            family, value_style, head = d.randrange(9), d.randrange(10), d.word(words.FACT_HEADS, 0.15)
        full = f"{start} {head}".strip()
        noun = d.word(words.NOUNS, 0.45)
        if family == 0:
            subject = d.ident() if d.chance(0.3) else d.city() if d.chance(0.5) else d.person()
            join = d.pick(("for", "of"))
            key = other = f"the {full} {join} {subject}"
        elif family == 1:
            key, other = f"the {full} for the {noun}", f"the {noun} {full}"
        elif family == 2:
            key, other = f"the {noun} {full}", f"the {full} of the {noun}"
        elif family == 3:
            key = other = f"the {d.word(words.ADJECTIVES, 0.15)} {noun} {head}"
        elif family == 4:
            person = d.person()
            key, other = f"{person}'s {full}", f"the {full} of {person}"
        elif family == 5:
            key = other = f"the {d.pseudo()} {head}"
        elif family == 6:
            key = other = f"the {d.word(words.ADJECTIVES, 0.2)} {noun}"
        elif family == 7:
            key = other = d.pick(
                (
                    f"the {d.pseudo()}",
                    f"the {noun}",
                    d.pseudo(),
                    d.ident(),
                    f"{noun} {d.randint(1, 99)}",
                    f"item {d.randint(1, 999)}",
                )
            )
        else:
            kind = d.pick(("number", "number", "word", "uuid"))
            key = other = f"the special magic {kind} for {d.pick((d.pseudo(), noun, f'{noun}-{d.pseudo()}', d.city()))}"
        value = _value(d, value_style)
        if key.lower() not in out and value not in key:
            out[key.lower()] = Fact(key, value, other)
    values = [f.value for f in out.values()]
    return list(out.values()) if len(set(values)) == len(values) else facts(d, count)


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]


def told(d: Draw, f: Fact, style: str) -> str:
    """Returns the sentence that states `f`."""
    if "special magic" in f.key and d.chance(0.5):
        return f"One of {f.key.replace('number', 'numbers').replace('word', 'words').replace('uuid', 'uuids')} is: {f.value}."
    return _upper(style.format(k=f.key, v=f.value))


def ask(d: Draw, chosen: list[Fact]) -> Message:
    """Returns the question for the `chosen` facts."""
    keys = [f.other if d.chance(0.08) else f.key for f in chosen]
    if d.chance(0.05):
        keys = [k.removeprefix("the ") for k in keys]
    return user(_upper(d.pick(_ASKS).format(k=" and ".join(keys))))


def answer(chosen: list[Fact]) -> Message:
    """Returns the answer for the `chosen` facts: each key with its value."""
    return says(" ".join(f"{_upper(f.key)} is {f.value}." for f in chosen))


_APART, _TOGETHER = 0.63, 0.92  # between them a frame gives its document in an earlier turn than the question


def opening(d: Draw, body: str) -> list[Message]:
    """Returns the turns in which a document is given before anything is asked, as retrieved documents are."""
    return _instructed(d, _handed_over(d, d.uniform(_APART, _TOGETHER), body))


def asked(d: Draw, given: list[Message], known: list[Fact]) -> Item:
    """Returns a question about facts of the document in the turns `given`."""
    chosen = _questions(d, known, 1)
    return _item("needle_list", [*given, ask(d, chosen[0]), answer(chosen[0])], chosen[0])


def _framed(d: Draw, body: str, chosen: list[list[Fact]]) -> list[Message]:
    first = ask(d, chosen[0])["content"]
    style = d.random()
    messages: list[Message] = []
    if style < 0.6:
        sep = d.pick(("\n\n", "\n", "\n\n", " ", "\n\nQuestion: ", "\n---\n"))
        intro = d.pick(("", "", "", "Read the following text.\n\n", "Here is a document:\n", "Text: ", "Remember these facts.\n",
                        "Context:\n", "Some special magic numbers are hidden within the following text. Memorize them.\n"))  # fmt: skip
        messages = [user(f"{intro}{body}{sep}{first}")]
    elif style < _APART:
        messages = [user(f"{first}\n\n{body}")]
    elif style < _TOGETHER:
        messages = [*_handed_over(d, style, body), user(first)]
    else:
        messages = [user(f"{body}\n\n{first} Answer with the value.")]
    messages = [*_instructed(d, messages), answer(chosen[0])]
    for later in chosen[1:]:
        messages += [ask(d, later), answer(later)]
    return messages


def _handed_over(d: Draw, style: float, body: str) -> list[Message]:
    if style < 0.76:
        return [{"role": "system", "content": body}]
    wait = d.pick(
        ("Say OK when you have read this.", "Reply with OK.", "Remember this. Say OK.", "Just say OK for now.")
    )
    return [user(f"{body}\n\n{wait}" if d.chance(0.6) else f"{wait}\n\n{body}"), says("OK.")]


def _instructed(d: Draw, messages: list[Message]) -> list[Message]:
    if messages[0]["role"] != "system" and d.chance(0.4):
        return [{"role": "system", "content": d.pick(SYSTEM_PROMPTS)}, *messages]
    return messages


def _questions(d: Draw, known: list[Fact], turns: int) -> list[list[Fact]]:
    out = []
    for _ in range(turns):
        count = 2 if len(known) > 1 and d.chance(0.15) else 3 if len(known) > 2 and d.chance(0.03) else 1
        out.append(d.sample(known, count))
    return out


def _item(kind: str, messages: list[Message], last: list[Fact]) -> Item:
    return Item(kind, messages, {"contains": [f.bare for f in last]})


def document(d: Draw, count: int) -> tuple[list[Fact], str]:
    """Returns `count` facts and the text that holds nothing but them."""
    known = facts(d, count)
    style = d.pick(_TELLS)
    sep = d.pick(("\n", "\n", " ", "\n- ", "\n* "))
    body = sep.join(told(d, f, style if d.chance(0.9) else d.pick(_TELLS)) for f in known)
    if sep not in ("\n", " "):
        body = sep.lstrip("\n") + body
    return known, body


def list_item(d: Draw, count: int, turns: int = 1) -> Item:
    """Returns an item whose context is nothing but `count` facts; kind `needle_list`."""
    known, body = document(d, count)
    chosen = _questions(d, known, turns)
    return _item("needle_list", _framed(d, body, chosen), chosen[-1])


def text_item(d: Draw, chars: int, turns: int = 1, most_facts: int = 12) -> Item:
    """Returns an item whose facts hide at any depth in about `chars` characters of filler; kind `needle_text`."""
    known = facts(d, d.pick((1, 1, 2, 3, 4, d.randint(1, most_facts))))
    style = d.pick(_TELLS)
    pieces = filler(d, max(40, chars - 45 * len(known)))
    sep = d.pick(("\n", " ", " ", " "))
    spots = sorted((d.randrange(len(pieces) + 1), i) for i in range(len(known)))
    for spot, i in reversed(spots):
        pieces.insert(spot, told(d, known[i], style) + ("" if sep == "\n" else d.pick(("", "", "\n"))))
    body = sep.join(pieces)
    chosen = _questions(d, known, turns)
    return _item("needle_text", _framed(d, body, chosen), chosen[-1])
