"""Random draws that know their split: a word, value or pair belongs to train or to held-out by a hash of its text."""
# ruff: noqa: SIM905 - a list of words reads best as a text

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, TypeVar
from zlib import crc32

from backends.emulator.tasks import words

T = TypeVar("T")
Split = Literal["train", "heldout"]

HELDOUT_OF_16 = 3
"""Sixteenths of all words and values that only the held-out split may use. Choice."""

_ONSETS = (
    "b bl br c ch cl cr d dr f fl fr g gl gr h j k kl kr l m n p pl pr qu r s sc sh sk sl sp st t th tr v w z".split()
)
_VOWELS = "a e i o u a e i o u ai ea ee ia io oa oo ou y".split()
_CODAS = [*[""] * 14, *"b d f g k l l m n n nd ng nk nt p r r rk rn s sh st t t th x".split()]
_ACCENTS = (
    "àáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿœšžłńśćźżğışčřěůőű"
    + "αβγδεζηθικλμνξοπρστυφχψω"
    + "абвгдежзиклмнопрстуфхцчшыэюя"
    + "中文日本東京"
)
_SMALL = """the of and to a an in is it for on with was that by as at from be are this which were has have had its not
but or their you your me my we they he she his her if what please will can do does i so no all about into before some
after now here there need late buy ask tomorrow today hello thanks see when where how why who too very""".split()
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def split_of(text: str) -> Split:
    """Returns the split that `text` belongs to; the same for every case of its letters."""
    return "heldout" if crc32(text.lower().encode()) % 16 < HELDOUT_OF_16 else "train"


class Draw(random.Random):
    """A seeded source of words, names and values of one split."""

    def __init__(self, seed: int | str, split: Split, pieces: Sequence[str] = ()) -> None:
        """`pieces` are letters of the tokenizer's entries: training words made of them leave no entry unlearned."""
        super().__init__(f"{seed}/{split}")
        self.split: Split = split
        self.pieces = list(pieces)
        self._mine: dict[int, list[str]] = {}

    def chance(self, p: float) -> bool:
        """Returns True with probability `p`."""
        return self.random() < p

    def pick(self, options: Sequence[T]) -> T:
        """Returns one of `options`, whatever the split: for wording that both splits share."""
        return options[int(self.random() * len(options))]

    def of(self, options: list[str]) -> str:
        """Returns one of the words of `options` that belong to this split."""
        mine = self._mine.get(id(options))
        if mine is None:
            mine = [w for w in options if split_of(w) == self.split]
            self._mine[id(options)] = mine
        return self.pick(mine)

    def mine(self, text: str) -> bool:
        """Returns whether `text` belongs to this split."""
        return split_of(text) == self.split

    def pseudo(self, syllables: int = 0) -> str:
        """Returns an invented lower-case word of this split."""
        while True:
            n = syllables or self.pick((1, 2, 2, 2, 3))
            if self.pieces and not syllables and self.random() < 0.3:
                word = "".join(self.pick(self.pieces) for _ in range(self.pick((1, 2, 2, 3))))
            else:
                word = "".join(self.pick(_ONSETS) + self.pick(_VOWELS) + self.pick(_CODAS) for _ in range(n))
            if not syllables and self.random() < 0.03:
                at = self.randrange(len(word))
                word = word[:at] + self.pick(_ACCENTS) + word[at + 1 :]
            if len(word) > 2 and self.mine(word):
                return word

    def word(self, options: list[str], invented: float = 0.35) -> str:
        """Returns a word of `options`, or an invented one at the rate `invented`."""
        return self.pseudo() if self.random() < invented else self.of(options)

    def person(self) -> str:
        """Returns a first name, or a full name."""
        first = self.of(words.FIRST_NAMES) if self.chance(0.7) else self.pseudo().capitalize()
        if self.chance(0.45):
            return first
        last = self.of(words.LAST_NAMES) if self.chance(0.6) else self.pseudo().capitalize()
        return f"{first} {last}"

    def city(self) -> str:
        """Returns the name of a city, real or invented."""
        return self.of(words.CITIES).replace("_", " ") if self.chance(0.6) else self.pseudo().capitalize()

    def digits(self, low: int, high: int) -> str:
        """Returns between `low` and `high` digits that belong to this split."""
        while True:
            text = "".join(self.pick("0123456789") for _ in range(self.randint(low, high)))
            if self.mine(text):
                return text

    def ident(self) -> str:
        """Returns a random-character identifier, such as `KX-4821`, `a7f3c9` or `ZQ19-BB`."""
        while True:
            text = self._ident()
            if self.mine(text):
                return text

    def _ident(self) -> str:
        def up(n: int) -> str:
            return "".join(self.pick(_LETTERS) for _ in range(n))

        def num(n: int) -> str:
            return "".join(self.pick("0123456789") for _ in range(n))

        def mixed(n: int) -> str:
            return "".join(self.pick("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(n))

        kind = self.randrange(12)
        if kind < 4:
            return f"{up(self.randint(1, 3))}{self.pick('--_ #').strip()}{num(self.randint(2, 5))}"
        if kind == 4:
            return "".join(self.pick("0123456789abcdef") for _ in range(self.randint(4, 10)))
        if kind == 5:
            return f"{up(2)}{num(2)}-{up(2)}"
        if kind == 6:
            return f"{self.pseudo().upper()}-{num(self.randint(1, 4))}"
        if kind == 7:
            return f"{self.pseudo()}{self.pick('-_')}{num(self.randint(1, 4))}"
        if kind == 8:
            return "".join(self.pick(_LETTERS + "0123456789") for _ in range(self.randint(4, 9)))
        if kind == 9:
            return f"{num(self.randint(2, 4))}-{num(self.randint(2, 4))}-{num(self.randint(2, 4))}"
        if kind == 10:
            return f"{mixed(self.randint(3, 5))}-{mixed(self.randint(3, 5))}"
        return mixed(self.randint(5, 10))

    def integer(self) -> int:
        """Returns an integer; those of three digits and more belong to this split, smaller ones to both."""
        while True:
            size = self.random()
            n = self.randint(1, 20) if size < 0.45 else self.randint(10, 99) if size < 0.7 else self.randint(100, 99999)
            if size > 0.95:
                n = -(n % 100) - 1
            if n < 100 or self.mine(str(n)):
                return n

    def decimal(self) -> float:
        """Returns a number with one to three decimals."""
        while True:
            places = self.pick((1, 1, 2, 2, 3))
            x = round(self.uniform(0, self.pick((1, 10, 100, 1000))), places)
            if x != int(x) and self.mine(str(x)):
                return x

    def date(self) -> str:
        """Returns a day as YYYY-MM-DD."""
        return f"{self.randint(2019, 2031)}-{self.randint(1, 12):02d}-{self.randint(1, 28):02d}"

    def clock(self) -> str:
        """Returns a time of day as HH:MM."""
        return f"{self.randint(0, 23):02d}:{self.pick(('00', '15', '30', '45', '05', '20', '50'))}"

    def email(self) -> str:
        """Returns an email address."""
        who = self.word(words.FIRST_NAMES).lower()
        who += self.pick(("", "", "." + self.pseudo(), self.digits(1, 2)))
        return f"{who}@{self.pseudo()}.{self.pick(('com', 'org', 'net', 'io', 'example'))}"

    def phrase(self, low: int = 2, high: int = 4) -> str:
        """Returns a few plain words, as a title or a note would hold."""
        if self.chance(0.4):
            return self._natural(low + high)
        parts = [
            self.word(words.NOUNS, 0.2) if self.chance(0.6) else self.word(words.ADJECTIVES, 0.2)
            for _ in range(self.randint(low, high))
        ]
        text = " ".join(parts)
        style = self.random()
        return text if style < 0.5 else text.capitalize() if style < 0.75 else " ".join(p.capitalize() for p in parts)

    def _natural(self, most: int) -> str:
        parts: list[str] = []
        for _ in range(self.randint(2, max(2, most))):
            parts.append(self.pick(_SMALL) if self.chance(0.45) else self.word(words.NOUNS, 0.3))
            if self.chance(0.08):
                n = str(self.randint(1, 99))
                parts[-1] = self.pick(
                    (
                        "({})",
                        "{}%",
                        "${}",
                        "#{}",
                        "{}:",
                        "{};",
                        "{},",
                        "{} &",
                        "{} +",
                        "{}/{}",
                        "[{}]",
                        "<{}>",
                        "{}*",
                        "~{}",
                        "{} - {}",
                        "£{}",
                        "{}°",
                    )
                ).replace("{}", n if self.chance(0.3) else parts[-1])
        text = " ".join(parts) + self.pick(("", "", "", ".", "?", "!", "..."))
        return text[0].upper() + text[1:] if self.chance(0.6) else text
