"""What the reference said from far back in the prompt, where it stood there, and whether the candidate says it too.

For people, by the scorer's own rules (scorers/spans.py), from the kept bodies; what was redacted is not found.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from scorers.recall import spoken
from scorers.records import Choice, DecodedRequest
from scorers.spans import copied_spans, far_text, one_line, says

MAX_FACTS = 16  # *choice*: what a person reads; lost ones first
AROUND_CHARS = 80  # *choice*: of the prompt on each side of a fact


def recalled(request: DecodedRequest, left: Sequence[Choice], right: Sequence[Choice]) -> dict[str, Any] | None:
    """JSON-ready: the prompt's length in characters, and the facts; None when nothing was copied from far back.

    Units:  `place` is the share of the prompt before the fact.
    """
    far, near = far_text(request)
    total = len(far) + len(near)
    facts: dict[str, dict[str, Any]] = {}
    for ours, theirs in zip_longest(left, right):
        said = one_line(spoken(ours))
        for span in copied_spans(spoken(theirs), far, near) if far and theirs is not None else ():
            end = span.position + len(span.text)
            facts.setdefault(
                span.text,
                {
                    "text": span.text,
                    "place": span.position / total,
                    "said": says(said, one_line(span.text)),
                    "before": far[max(0, span.position - AROUND_CHARS) : span.position],
                    "after": (far + near[:AROUND_CHARS])[end : end + AROUND_CHARS],
                },
            )
    if not facts:
        return None
    ordered = sorted(facts.values(), key=lambda fact: (fact["said"], fact["place"]))
    return {"prompt_chars": total, "facts": ordered[:MAX_FACTS]}
