"""Spans of an answer that stand verbatim far back in the prompt. Back room of recall.py.

Cost: a bounded number of C searches of the prompt (never an index of its words), so a 100k-token prompt takes
milliseconds; each search is short, because no other thread runs meanwhile. Every bound is a *choice*.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from scorers.records import DecodedRequest
from scorers.wire import DecodeError, content_text

TAIL_CHARS = 512  # the prompt's end: answering from it needs no long context
MAX_TURN_CHARS = 4_096  # a last user turn up to this is a question; a longer one is the document itself
RUN_WORDS = 8  # metrology 3
MIN_SPAN_CHARS = 3  # a shorter id, number or quotation stands in any prompt
MAX_ANSWER_CHARS = 16_384
MAX_SPANS = 64
MAX_CANDIDATES = 128  # distinct words with a digit that are looked for
MAX_BLOCKS = 256  # blocks of words looked for in vain: a thousand words of an answer of its own making
MAX_OCCURRENCES = 4  # of a block of words, when its longest run is sought
MAX_REJECTED = 1_000  # occurrences inside other words, before a span counts as absent
_PIECE_CHARS = 65_536  # of a prompt, whose numbers are read at once: half a millisecond
_BLOCK_WORDS = RUN_WORDS // 2  # any run of 8 words holds an aligned block of 4

_WORD = re.compile(r"\S+")
_TOKEN = re.compile(r"\w+(?:[-./:@,]\w+)*")
_PARTS = re.compile(r"[:/,@]")
_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"\d+")
_QUOTED = re.compile(r"\"([^\"\n]{3,200})\"|“([^”\n]{3,200})”|`([^`\n]{3,200})`|«([^»\n]{3,200})»")


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of the answer and where it stands in the prompt. Units: position in characters."""

    kind: str
    text: str
    position: int


def far_text(request: DecodedRequest) -> tuple[str, str]:
    """The prompt but for its end, and that end: the last 512 characters, or the last user turn where it is
    longer and still a question."""
    prompt = request.prompt_text
    tail = max(TAIL_CHARS, _last_turn_chars(request))
    cut = max(len(prompt) - tail, 0)
    return prompt[:cut], prompt[cut:]


def _last_turn_chars(request: DecodedRequest) -> int:
    """The length of the question at the end; 0 where there is none. A completion has no turns, whatever else
    its body holds."""
    messages = request.body.get("messages") if request.kind == "chat" else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    if not isinstance(last, dict) or last.get("role") != "user":
        return 0
    try:
        length = len(content_text(last.get("content"), "messages.content"))
    except DecodeError:
        return 0
    return length if length <= MAX_TURN_CHARS else 0


def copied_spans(answer: str, far: str, near: str) -> list[Span]:
    """Distinct spans of the answer that stand in `far` and not in `near`: ids and numbers, quoted strings,
    and verbatim runs of words, cut into pieces of eight."""
    answer = answer[:MAX_ANSWER_CHARS]
    spans: dict[str, Span] = {}
    for kind, text, position in (*_ids(answer, far), *_quotes(answer, far), *_runs(answer, far)):
        if text not in spans and find_whole(near, text) < 0:
            spans[text] = Span(kind, text, position)
    return list(spans.values())[:MAX_SPANS]


def says(said: str, span: str) -> bool:
    """Whether the text says the span as whole words: "123" is not said by "1234", nor by "1,123"."""
    return find_whole(said, span) >= 0


def one_line(text: str) -> str:
    """The text with every run of white space as one blank: where a line breaks says nothing."""
    return " ".join(text.split())


def find_whole(text: str, span: str) -> int:
    """Where the span stands in the text as whole words, or -1."""
    position = text.find(span) if span else -1
    for _ in range(MAX_REJECTED):
        if position < 0 or _is_whole(text, position, position + len(span)):
            return position
        position = text.find(span, position + 1)
    return -1


def _is_whole(text: str, start: int, end: int) -> bool:
    if _inside_word(text, start) or _inside_word(text, end):
        return False
    before, after = text[start - 1 : start], text[end : end + 1]
    inside_number = text[start].isdigit() and before in (".", ",") and text[start - 2 : start - 1].isdigit()
    goes_on = text[end - 1].isdigit() and after in (".", ",") and text[end + 1 : end + 2].isdigit()
    return not (inside_number or goes_on)


def _inside_word(text: str, place: int) -> bool:
    """Whether a cut before this character would part a word."""
    return 0 < place < len(text) and _is_of_word(text[place - 1]) and _is_of_word(text[place])


def _is_of_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _ids(answer: str, far: str) -> list[tuple[str, str, int]]:
    """Words with a digit that stand in `far`, whole or else by their parts ("4711,4712", "code:4711")."""
    found: list[tuple[str, str, int]] = []
    tokens = [token for token in dict.fromkeys(_TOKEN.findall(answer)) if _DIGIT.search(token)]
    numbers = _numbers(far) if tokens else set()
    for token in tokens[:MAX_CANDIDATES]:
        for text in (token, *_PARTS.split(token)):
            digits = _NUMBER.findall(text) if len(text) >= MIN_SPAN_CHARS else []
            # Whole words do not begin or end inside of a number, so all of theirs stand in the prompt or they do not.
            position = find_whole(far, text) if digits and numbers.issuperset(digits) else -1
            if position >= 0:
                found.append(("id", text, position))
                if text == token:
                    break
    return found


def _numbers(text: str) -> set[str]:
    """Every number of the text, whole: one pass, where each word that is not there would be a search of its own."""
    found: set[str] = set()
    start = 0
    while start < len(text):
        end = start + _PIECE_CHARS
        while end < len(text) and text[end - 1].isdecimal():
            end += 1
        found.update(_NUMBER.findall(text, start, end))
        start = end
    return found


def _quotes(answer: str, far: str) -> list[tuple[str, str, int]]:
    texts = (next(group for group in match.groups() if group).strip() for match in _QUOTED.finditer(answer))
    candidates = [text for text in dict.fromkeys(texts) if len(text) >= MIN_SPAN_CHARS][:MAX_SPANS]
    placed = (("quote", text, find_whole(far, text)) for text in candidates)
    return [item for item in placed if item[2] >= 0]


def _runs(answer: str, far: str) -> list[tuple[str, str, int]]:
    """Pieces of eight words of the answer's maximal verbatim runs, with their place in `far`."""
    words = [match.span() for match in _WORD.finditer(answer)]
    pieces: list[tuple[str, str, int]] = []
    absent: set[str] = set()
    block = 0
    while block + _BLOCK_WORDS <= len(words) and len(pieces) < MAX_SPANS and len(absent) < MAX_BLOCKS:
        text = answer[words[block][0] : words[block + _BLOCK_WORDS - 1][1]]
        first, last, offset = (block, block, 0) if text in absent else _longest_run(answer, far, words, block)
        if first == last:
            absent.add(text)
        if last - first >= RUN_WORDS:
            for start in range(first, last - RUN_WORDS + 1, RUN_WORDS):
                begin, end = words[start][0], words[start + RUN_WORDS - 1][1]
                pieces.append(("run", answer[begin:end], begin + offset))
        block = max(block + _BLOCK_WORDS, last // _BLOCK_WORDS * _BLOCK_WORDS)
    return pieces


def _longest_run(answer: str, far: str, words: list[tuple[int, int]], block: int) -> tuple[int, int, int]:
    """The longest run of whole words around the block, over its first occurrences in `far`: its first word,
    the word past its last, and what to add to a place in the answer to get the place in `far`."""
    begin, end = words[block][0], words[block + _BLOCK_WORDS - 1][1]
    needle = answer[begin:end]
    best = (block, block, 0)
    position = far.find(needle)
    for _ in range(MAX_OCCURRENCES):
        if position < 0:
            break
        offset = position - begin
        first, last = block, block + _BLOCK_WORDS
        earliest = max(block - RUN_WORDS + 1, 0)  # an earlier block has seen what begins before
        while first > earliest and _same(answer, far, words[first - 1][0], words[first][0], offset):
            first -= 1
        while last < len(words) and _same(answer, far, words[last - 1][1], words[last][1], offset):
            last += 1
        first += _inside_word(far, words[first][0] + offset)  # "x" at the end of "box" is no word of the run
        last -= _inside_word(far, words[last - 1][1] + offset)
        if last - first > best[1] - best[0]:
            best = (first, last, offset)
        position = far.find(needle, position + 1)
    return best


def _same(answer: str, far: str, start: int, end: int, offset: int) -> bool:
    return start + offset >= 0 and far[start + offset : end + offset] == answer[start:end]
