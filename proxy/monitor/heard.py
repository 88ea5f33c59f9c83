"""Everything that came back for one plan, who said the reference's words, and what it cost. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.monitor.costs import REGENERATED, VERIFIED, Purpose, TokenCount, spent
from proxy.monitor.forcing import ForcedCall
from proxy.monitor.mirror import Answer, Answers
from proxy.monitor.verify import Verification
from scorers.proof import Unproven


@dataclass(frozen=True, slots=True)
class Forced:
    """A teacher-forced call and what came of it."""

    call: ForcedCall
    answer: Answer


@dataclass(frozen=True, slots=True)
class Heard:
    """Everything that came back for one plan. None: not planned. `tried` where verifying is the mode."""

    answers: Answers
    forced: Forced | None = None
    control_forced: Forced | None = None
    tried: Verification | None = None

    @property
    def how(self) -> str:
        """How the reference's reply was come by: `rows.LedgerRow.reference_answer`."""
        if self.tried is None:
            return REGENERATED
        outcome = self.tried.outcome
        return f"{REGENERATED}/{outcome.value}" if isinstance(outcome, Unproven) else VERIFIED

    @property
    def reference_body(self) -> bytes:
        """What the reference said; where that was proven, the candidate's bytes that say it too."""
        if self.tried is not None and self.tried.reply is not None:
            return self.tried.body
        return body_of(self.answers.reference)

    def spent(self, *, needle: bool) -> tuple[TokenCount, ...]:
        """What the reference's replies cost. A verified reply stands in `answers` by its scoring call."""
        tried = self.tried
        calls: list[tuple[Purpose, Answer | None]] = []
        if tried is None or tried.reply is None:
            calls.append(("needle" if needle else "pair", self.answers.reference))
        calls.append(("noise", self.answers.control))
        calls += [("teacher_forced", one.answer) for one in (self.forced, self.control_forced) if one is not None]
        calls.append(("verify", None if tried is None else tried.call))
        return spent((purpose, None if answer is None else answer.reply) for purpose, answer in calls)


def body_of(answer: Answer | None) -> bytes:
    """The bytes of a reply; none without one."""
    return answer.reply.body if answer is not None and answer.reply is not None else b""
