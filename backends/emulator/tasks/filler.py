"""Filler text to hide facts in: prose, logs, repeated sentences, tables, word soup and real documentation."""

from __future__ import annotations

from functools import cache
from pydoc_data.topics import topics

from backends.emulator.tasks import words
from backends.emulator.tasks.draw import Draw, split_of

_RULER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
_SHAPES = (
    "the {a} {n} {v} near the {n2}", "a {n} {v} while the {n2} {v2}", "nobody {v} the {a} {n} of the {n2}",
    "in the {n}, the {a} {n2} {v}", "{p} {v} the {n} before the {n2} {v2}", "it was a {a} {n}, and {p} {v} it",
    "after the {n}, they {v} the {n2} again", "every {n} {v} under the {a} {n2}", "{p} said that the {n} {v}",
    "there were {k} {n2} in the {n}", "most people {v} the {n}, but {p} {v2} the {n2}", "the {n} is {a}",
    "when the {a} {n} {v}, the {n2} {v2}", "{p} has {k} {a} {n2}", "the {n} of the {n2} was {a} and {a2}",
    "we {v} from the {n} to the {n2} in {k} hours", "if the {n} is {a}, the {n2} may be {a2}", "in {y}, the {n} {v}",
    "{c} is known for its {a} {n}", "on {t}, {p} {v} the {n} in {c}",
)  # fmt: skip


def prose(d: Draw) -> str:
    """Returns one sentence."""
    shape = d.pick(_SHAPES)
    invented = 0.12
    noun = words.SURFACES if d.chance(0.5) else words.NOUNS
    text = shape.format(
        a=d.of(words.ADJECTIVES), a2=d.of(words.ADJECTIVES), n=d.word(noun, invented), n2=d.word(noun, invented),
        v=d.of(words.PAST_VERBS), v2=d.of(words.PAST_VERBS), p=d.of(words.FIRST_NAMES), k=d.randint(2, 90),
        y=d.randint(1700, 2040), c=d.of(words.CITIES).replace("_", " "), t=d.date(),
    )  # fmt: skip
    return text[0].upper() + text[1:] + d.pick((".", ".", ".", ".", "!", "?"))


def soup(d: Draw) -> str:
    """Returns a sentence of unrelated words."""
    return " ".join(d.word(words.NOUNS, 0.5) for _ in range(d.randint(4, 14))).capitalize() + "."


def log(d: Draw) -> str:
    """Returns a line of a log."""
    when = f"{d.date()} {d.clock()} {d.pick(('INFO', 'WARN', 'DEBUG', 'ERROR'))} {d.pseudo()}"
    what = f"{d.of(words.PAST_VERBS)} {d.of(words.NOUNS)} {d.ident()}"
    return f"{when}: {what} {d.pick(('in', 'after'))} {d.randint(1, 999)} ms\n"


def row(d: Draw) -> str:
    """Returns a line of a table or of JSON lines."""
    if d.chance(0.5):
        return f'{{"{d.of(words.PARAMS)}": "{d.word(words.NOUNS)}", "{d.of(words.PARAMS)}": {d.integer()}}}\n'
    return " | ".join((d.word(words.NOUNS), d.ident(), str(d.integer()), d.of(words.ADJECTIVES))) + "\n"


@cache
def _paragraphs(split: str) -> list[str]:
    out = []
    for name, text in topics.items():
        if split_of(name) == split:
            out += [" ".join(p.split()) for p in text.split("\n\n") if 60 < len(p) < 600]
    return out


def filler(d: Draw, chars: int) -> list[str]:
    """Returns pieces of filler text of about `chars` characters in all; a fact may stand between any two."""
    kind = d.random()
    pieces: list[str] = []
    size = 0
    if kind < 0.12:
        sentence = _RULER.split(". ") if d.chance(0.4) else [prose(d) for _ in range(d.randint(1, 8))]
        unit = [s if s.endswith((".", "!", "?")) else s + "." for s in sentence]
        while size < chars:
            pieces += unit
            size += sum(map(len, unit)) + len(unit)
        return pieces
    if kind < 0.27:
        paragraphs = _paragraphs(d.split)
        while size < chars:
            piece = d.pick(paragraphs)
            pieces += piece.split(". ") if d.chance(0.5) else [piece]
            size += len(piece)
        return pieces
    makers = {0: prose, 1: log, 2: row, 3: soup}
    main = 0 if kind < 0.75 else 1 if kind < 0.82 else 2 if kind < 0.9 else 3
    mixed = d.chance(0.2)
    while size < chars:
        piece = (d.pick((prose, prose, soup, log, row)) if mixed else makers[main])(d)
        pieces.append(piece)
        size += len(piece) + 1
    return pieces
