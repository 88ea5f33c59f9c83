"""The pages: everything that is not ours is text, and what matters is on them."""

from __future__ import annotations

import base64
import hashlib
import html.parser
from dataclasses import replace
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from proxy.monitor.history import Since
from proxy.monitor.ledger_reader import LedgerEvent
from proxy.monitor.page import (
    CONTENT_SECURITY_POLICY,
    Filter,
    Shown,
    Steps,
    overview,
    pair_page,
    parts_of,
    problem,
)
from proxy.monitor.page.html import VOID, Html, escape, tag
from proxy.monitor.readable import side_by_side, summary
from proxy.monitor.redact import redactor
from proxy.monitor.rows import LedgerRow, Opening, PairBodies, ScoreRow
from scorers.catalogue import SPECS
from scorers.coverage import Coverage, StratumCoverage
from scorers.judge import Verdict
from scorers.records import Reason
from scorers.verdict import BudgetVerdict, Diagnosis
from tests.unit.monitor_samples import FixedView, bodies, lane, reply, row, verdict


class Outline(html.parser.HTMLParser):
    """Elements, and the text of all of them; fails on what is not closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def shown(judged: Verdict | None = None, **more: Any) -> Shown:
    view = FixedView(judged)
    own: dict[str, Any] = {
        "verdict": view.verdict(),
        "readiness": view.readiness(),
        "state": view.state(),
        "now_unix_s": 1_000_100.0,
        "pairs": [summary(row(n)) for n in (3, 1)],
    }
    return Shown(**{**own, **more})


def page(judged: Verdict | None = None, **more: Any) -> Outline:
    return Outline(overview(shown(judged, **more)))


def pair(one: LedgerRow, steps: Steps = Steps(), **limits: float) -> str:  # noqa: B008  a value
    return pair_page(side_by_side(one), steps, {name: (limit, SPECS[name].unit) for name, limit in limits.items()})


def test_the_overview_says_verdict_reasons_budgets_and_pairs() -> None:
    diagnosis = Diagnosis("kv_cache", ("recall falls with length",), "stay at FP8 KV")
    strata = {"0-512/plain/whole/greedy": StratumCoverage(sampled=9, scored=7, ineligible=1, dropped=1)}
    coverage = Coverage(sampled=9, scored=7, ineligible={"path": 1}, lost={"late": 1}, strata=strata)
    text = page(verdict("fail", reasons=("over its limit", "and more"), diagnosis=diagnosis, coverage=coverage)).text
    for said in (
        "Fail",
        "over its limit",
        "and more",
        "kv cache",
        "recall falls with length",
        "stay at FP8 KV",
        "tool_call_mismatch",
        "critical",
        "3 %",
        "0.05 nats",
        "unknown",
        "7 of 8 eligible (87.5%)",
        "1: not finished in time",
        "1: not a chat or a completion",
        "id-3",
        "prompts of 0-512 tokens, no tools, not streamed, temperature 0",
    ):
        assert said in text


def test_a_fail_says_which_budget_since_when_where_and_one_pair() -> None:
    over = lane("fail", value=0.4, samples=30, crossed={"rollback": 153, "change": 201}, reasons=("over",))
    strata = {"1k-4k": lane(value=0.01), "16k-64k": over}
    broke = BudgetVerdict("copy_recall_loss", 0.1, True, "ratio", 0.1, 1.3, 2.0, replace(over, value=0.2), strata)
    fine = BudgetVerdict("tool_call_mismatch", 0.1, True, "ratio", 0.1, 1.3, 2.0, lane("pass"), {})
    judged = verdict("fail", budgets={"tool_call_mismatch": fine, "copy_recall_loss": broke})
    raw = overview(
        shown(
            judged,
            since=Since(1_000_000.0, True),
            times={153: 999_970.0},
            first={"copy_recall_loss": summary(row(7))},
        )
    )
    text = Outline(raw).text
    assert "since 1970-01-12 13:46:40 UTC (1 min 40 s)" in text  # the verdict
    assert "1970-01-12 13:46:10 UTC (2 min 10 s), position 153" in text  # the budget
    assert "prompts of 16k-64k tokens: 40 % over 30 pairs; for certain nowhere else" in text
    assert "copy_recall_loss is over its limit" in text
    assert 'href="/pairs/id-7?score=copy_recall_loss&amp;stratum=16k-64k&amp;kind=live"' in raw
    places = [raw.index(f'id="budget-{name}"') for name in ("copy_recall_loss", "tool_call_mismatch")]
    assert places == sorted(places)
    assert text.index("prompts of 16k-64k tokens fail") < text.index("prompts of 1k-4k tokens inconclusive")


def test_where_a_budget_keeps_no_stratum_apart_the_latest_rows_name_one() -> None:
    whole = lane("fail", value=0.3, crossed={"change": 9})
    broke = BudgetVerdict("tool_call_mismatch", 0.1, True, "ratio", 0.1, 1.3, 2.0, whole, {})
    rows: list[tuple[str, dict[str, float | Reason]]] = [
        *[("0-512/tools/whole/greedy", {"tool_call_mismatch": float(n < 2)}) for n in range(10)],
        *[("4k-16k/tools/whole/greedy", {"tool_call_mismatch": 1.0})] * 6,
        *[("64k+/tools/whole/greedy", {"tool_call_mismatch": 1.0})] * 2,
        ("64k+/plain/whole/greedy", {"tool_call_mismatch": Reason.NO_TOOLS}),
    ]
    parts = parts_of(rows, "tool_call_mismatch")
    assert [(part.stratum[:3], part.pairs, part.mean) for part in parts] == [
        ("4k-", 6, 1.0),
        ("0-5", 10, 0.2),
        ("64k", 2, 1.0),
    ]
    text = page(verdict("fail", budgets={"b": broke}), parts={"tool_call_mismatch": parts}).text
    assert "worst with prompts of 4k-16k tokens, tools offered, not streamed, temperature 0: 100 % over 6 pairs" in text
    assert "before the oldest row that is kept" in text


def test_what_is_over_a_limit_is_marked_and_other_scores_are_left_to_the_pair() -> None:
    scores = [("tool_call_mismatch", 1.0), ("logprob_kl", 0.01), ("length_ratio", 1.0)]
    listed = row(1, scores=tuple(ScoreRow("candidate", name, value, None) for name, value in scores))
    raw = overview(shown(pairs=[summary(listed)], filter=Filter(every=True), full=True))
    assert 'tool_call_mismatch <span class="chip bad">100 %</span>' in raw
    assert "logprob_kl <span>0.01 nats</span>" in raw
    assert "length_ratio" not in raw
    assert "every=true&amp;before=1#pairs" in raw


def test_states_of_the_monitor_are_shown() -> None:
    health = {"reference": {"failures_in_a_row": 4, "last_error": "HTTP 404: no such model"}}
    text = page(readiness={"reference_answers": False}, state={"paused": True, "alarms": ["odd"], "arms": health}).text
    for said in (
        "the reference does not answer",
        "paused",
        "resume the mirror",
        "odd",
        "4 failed calls",
        "no such model",
    ):
        assert said in text
    assert "pause the mirror" in page().text


def test_the_rollout_is_shown_where_there_is_one() -> None:
    stands = {
        "phase": "stepping",
        "step": 2,
        "steps": [0.05, 0.25, 1.0],
        "share": 0.25,
        "since_unix_s": 1_000_040.0,
        "reason": "the step before had what it needs",
        "needs": ["3 of 200 pairs at this step"],
    }
    text = page(state={"rollout": stands}).text
    assert "The candidate serves 25 % of the clients, step 2 of 3, since 1 min." in text
    assert "3 of 200 pairs at this step" in text
    failed = {**stands, "phase": "failed", "share": 0.0, "reason": "over", "needs": ["it is failed: over"]}
    raw = overview(shown(state={"rollout": failed}))
    said = "The reference serves all clients, returned at step 2 of 3, since 1 min.Why: over"
    assert said in Outline(raw).text
    assert 'aria-current="step"' not in raw
    assert "What the next step waits for" not in raw
    assert "Staged rollout" not in page().text


def test_the_history_tells_of_verdicts_epochs_and_operators() -> None:
    events = [
        LedgerEvent(3, 90.0, "reset", {"epoch": 2, "reason": "understood"}),
        LedgerEvent(2, 80.0, "verdict", {"epoch": 2, "state": "fail", "stage": "rolled_back", "reason": "over"}),
        LedgerEvent(1, 70.0, "rollout", {"phase": "stepping", "share": 0.25, "reason": "go"}),
    ]
    text = page(events=events, openings=[Opening(2, 60.0, "the candidate changed")]).text
    told = [text.index(said) for said in ("understood", "rolled back, epoch 2: over", "25 % of the", "2 began")]
    assert told == sorted(told)
    assert "the candidate changed" in text


def test_an_empty_monitor_has_a_page() -> None:
    text = page(Verdict("inconclusive", ()), pairs=[], state={}, readiness={}).text
    assert "Inconclusive" in text
    assert "No such pair is kept." in text
    assert "the disk" in page(trouble="the disk").text


def test_without_a_script_refreshing_is_a_choice() -> None:
    assert page().tags.count("meta") == 2
    assert page(refresh_s=10).tags.count("meta") == 3
    assert "data-refresh" in overview(shown())
    assert "data-refresh" not in overview(shown(refresh_s=10))


def test_nothing_is_loaded_and_one_script_runs_that_the_policy_names() -> None:
    raw = overview(shown())
    tags = page().tags + Outline(pair(row(1, bodies=bodies("x")))).tags
    assert not set(tags) & {"img", "link", "iframe", "object"}
    assert tags.count("script") == 2
    for element in ("script", "style"):
        inside = raw.split(f"<{element}>")[1].split(f"</{element}>")[0]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY
        assert "url(" not in inside
        assert "</" not in inside
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "style=" not in raw  # the policy would refuse it
    assert "onclick=" not in raw


def test_the_reader_steps_within_what_was_chosen() -> None:
    steps = Steps(Filter("tool_call_mismatch", "4k-16k"), summary(row(9)), summary(row(5, kind="probe")), 3, 20)
    raw = pair(row(7, bodies=bodies("x")), steps)
    assert 'href="/pairs/id-9?score=tool_call_mismatch&amp;stratum=4k-16k&amp;kind=live" rel="prev"' in raw
    assert 'href="/pairs/id-5?score=tool_call_mismatch&amp;stratum=4k-16k&amp;kind=probe" rel="next"' in raw
    assert 'href="/?score=tool_call_mismatch&amp;stratum=4k-16k#pairs" rel="up"' in raw
    assert "3 of the latest 20 failing pairs over the limit of tool_call_mismatch with prompts of 4k-16k tokens" in raw
    ends = Outline(pair(row(7, bodies=bodies("x")))).text
    assert "this is the latest" in ends
    assert "this is the oldest" in ends


def test_calls_are_laid_beside_each_other_argument_by_argument() -> None:
    ours = ("get_weather", '{"city": "Turin", "days": "3", "unit": "celsius"}')
    theirs = ("get_weather", '{"city": "Torino", "days": 3, "unit": "celsius", "hours": 1}')
    kept = PairBodies(bodies().request, reply(None, ours), reply(None, theirs), reply(None, theirs))
    raw = pair(row(1, bodies=kept))
    text = Outline(raw).text
    assert "citychanged" in text
    assert "dayschanged from integer to string" in text
    assert "unitthe same" in text
    assert "hoursmissing" in text
    assert "asked again, calls the same as the first" in text
    assert "the same answer" in text


def test_a_needle_is_drawn_in_its_place() -> None:
    told = {"found": {"left": False, "right": True}, "depth_ratio": 0.62, "length": "1k-4k"}
    score = ScoreRow("candidate", "needle_recall_loss", 1.0, None, told)
    kept = PairBodies(bodies().request, reply("no"), reply("482913"))
    raw = pair(row(1, kind="probe", bodies=kept, scores=(score,)), needle_recall_loss=0.1)
    text = Outline(raw).text
    assert "The planted needle stands 62% into the prompt, and the candidate does not say it." in text
    assert "1,200 tokens by the reference's count; its bucket, by its text, is 1k-4k" in text
    assert 'class="fact gone"' in raw
    assert "A failing pair" in text


def test_a_pair_is_side_by_side_with_what_differs_marked() -> None:
    kept = PairBodies(bodies().request, reply("room 4711\n today"), reply("room 4712\n today"), reply("room 4711"))
    told = ScoreRow("candidate", "tool_call_mismatch", 1.0, None, {"rung": "names"})
    raw = pair(row(1, bodies=kept, scores=(told,)))
    assert '<span class="del">4711</span>' in raw
    assert '<span class="ins">4712</span>' in raw
    outline = Outline(raw)
    for said in ("Candidate", "Reference", "Noise twin", "names", "room ", "Turin", "get_weather"):
        assert said in outline.text
    assert "room 4711\n today" in outline.text  # the space of the text is kept


def test_a_pair_says_the_worst_first_in_the_same_units_as_the_overview() -> None:
    scores = [("logprob_kl", 0.208), ("tool_call_mismatch", 1.0), ("text_mismatch", 1.0)]
    of_pair = row(1, bodies=bodies("x"), scores=tuple(ScoreRow("candidate", n, value, None) for n, value in scores))
    text = Outline(pair(of_pair, logprob_kl=0.05, tool_call_mismatch=0.03)).text
    assert "tool_call_mismatch 100 % against 3 %logprob_kl 0.208 nats against 0.05 nats" in text


def test_what_was_redacted_is_on_no_part_of_the_page() -> None:
    """Calls and facts are read from the kept bodies, which are redacted before they are kept."""
    filler = "Nothing was seen that day. " * 60
    asked = orjson.dumps({"messages": [{"role": "user", "content": f"The code is SECRET-4711. {filler}"}]})
    said = [reply("SECRET-4711", ("unlock", f'{{"code": "SECRET-{n}"}}')) for n in (4711, 4712)]
    hiding = redactor(("..content", "..arguments"))
    request, candidate, reference = (hiding.body(body)[0] for body in (asked, *said))
    whole, hidden = (
        pair(row(1, bodies=PairBodies(*kept))) for kept in ((asked, *said), (request, candidate, reference))
    )
    assert whole.count("SECRET") > 8
    assert "SECRET" not in hidden
    assert "[redacted]" in hidden


def test_a_long_text_is_cut_and_not_compared() -> None:
    kept = PairBodies(bodies().request, reply("a " * 50_000), reply("b " * 50_000))
    raw = pair(row(1, bodies=kept))
    assert "more characters" in raw
    assert raw.count('class="del"') == 1  # the excerpt
    assert 'id="parts-candidate"' in raw
    assert len(raw) < 400_000


_text = st.text(st.characters(codec=None, exclude_categories=()) | st.sampled_from("<>&\"'\x00\x1b\u202e\ud800"))


@given(_text)
def test_text_is_text_whatever_it_holds(text: str) -> None:
    shown = tag("p", text, title=text)
    shown.encode()  # no lone surrogate is left
    outline = Outline(shown)
    assert outline.tags == ["p"]
    assert not any(char in shown for char in "\x00\x1b\u202e")


@given(_text, _text)
def test_pages_of_any_reply_are_whole(said: str, name: str) -> None:
    clean = said.encode("utf-8", "replace").decode()
    kept = PairBodies(b"{}", reply(clean, (name.encode("utf-8", "replace").decode(), "{}")), reply("x"))
    known = set(Outline(pair(row(1, bodies=bodies("x")))).tags)
    assert set(Outline(pair(row(1, bodies=kept))).tags) <= known | {"h3", "a"}


def test_only_what_was_built_here_is_markup() -> None:
    assert tag("b", Html("<i>"), "<i>", 3, None, [["<", "a"]]) == "<b><i>&lt;i&gt;3&lt;a</b>"
    assert tag("a", "x", href='"><script>', aria_label="y", hidden=True, title=None) == (
        '<a href="&quot;&gt;&lt;script&gt;" aria-label="y" hidden>x</a>'
    )
    assert escape("a\tb\nc") == "a\tb\nc"
    assert "&lt;b&gt;" in problem(404, "<b>")
