"""The pages: everything that is not ours is text, and what matters is on them."""

from __future__ import annotations

import html.parser
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from proxy.monitor.page import CONTENT_SECURITY_POLICY, overview, pair_page, problem
from proxy.monitor.page.html import VOID, Html, escape, tag
from proxy.monitor.page.style import CSS
from proxy.monitor.readable import side_by_side, summary
from proxy.monitor.rows import PairBodies, ScoreRow
from scorers.coverage import Coverage, StratumCoverage
from scorers.judge import Verdict
from scorers.verdict import Diagnosis
from tests.unit.monitor_samples import FixedView, bodies, reply, row, verdict


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


def page(judged: Verdict | None = None, **more: Any) -> Outline:
    view = FixedView(judged)
    shown: dict[str, Any] = {
        "verdict": view.verdict(),
        "readiness": view.readiness(),
        "state": view.state(),
        "pairs": [summary(row(n)) for n in (3, 1)],
        "score": None,
        "every": False,
        "refresh_s": None,
        "trouble": None,
        "full": False,
    }
    return Outline(overview(**{**shown, **more}))


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
        "3.00%",
        "0.05 nats",
        "unknown",
        "7 of 8 eligible (87.5%)",
        "1 late",
        "id-3",
        "0-512/plain/whole/greedy",
    ):
        assert said in text


def test_what_is_over_a_limit_is_marked_and_other_scores_are_left_to_the_pair() -> None:
    scores = [("tool_call_mismatch", 1.0), ("logprob_kl", 0.01), ("length_ratio", 1.0)]
    listed = row(1, scores=tuple(ScoreRow("candidate", name, value, None) for name, value in scores))
    raw = overview(
        verdict=verdict(),
        readiness={},
        state={},
        pairs=[summary(listed)],
        score=None,
        every=True,
        refresh_s=None,
        trouble=None,
        full=True,
    )
    assert 'tool_call_mismatch <span class="chip bad">1</span>' in raw
    assert "logprob_kl <span>0.01</span>" in raw
    assert "length_ratio" not in raw
    assert "before=1&amp;every=true" in raw


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


def test_an_empty_monitor_has_a_page() -> None:
    text = page(Verdict("inconclusive", ()), pairs=[], state={}, readiness={}).text
    assert "Inconclusive" in text
    assert "No such pair is kept." in text
    assert "the disk" in page(trouble="the disk").text


def test_refreshing_is_a_choice() -> None:
    assert page().tags.count("meta") == 2
    assert page(refresh_s=10).tags.count("meta") == 3


def test_nothing_is_loaded_and_no_script_runs() -> None:
    tags = set(page().tags) | set(Outline(pair_page(side_by_side(row(1, bodies=bodies("x"))))).tags)
    assert not tags & {"script", "img", "link", "iframe", "object"}
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "url(" not in CSS
    assert "</" not in CSS


def test_a_pair_is_side_by_side_with_what_differs_marked() -> None:
    kept = PairBodies(bodies().request, reply("room 4711\n today"), reply("room 4712\n today"), reply("room 4711"))
    told = ScoreRow("candidate", "tool_call_mismatch", 1.0, None, {"rung": "names"})
    raw = pair_page(side_by_side(row(1, bodies=kept, scores=(told,))))
    assert '<span class="del">4711</span>' in raw
    assert '<span class="ins">4712</span>' in raw
    outline = Outline(raw)
    for said in ("Candidate", "Reference", "Reference, second run", "names", "room ", "Turin", "get_weather"):
        assert said in outline.text
    assert "room 4711\n today" in outline.text  # the space of the text is kept


def test_a_long_text_is_cut_and_not_compared() -> None:
    kept = PairBodies(bodies().request, reply("a " * 50_000), reply("b " * 50_000))
    raw = pair_page(side_by_side(row(1, bodies=kept)))
    assert "more characters" in raw
    assert 'class="del"' not in raw
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
    known = set(Outline(pair_page(side_by_side(row(1, bodies=bodies("x"))))).tags)
    assert set(Outline(pair_page(side_by_side(row(1, bodies=kept)))).tags) <= known | {"h3"}


def test_only_what_was_built_here_is_markup() -> None:
    assert tag("b", Html("<i>"), "<i>", 3, None, [["<", "a"]]) == "<b><i>&lt;i&gt;3&lt;a</b>"
    assert tag("a", "x", href='"><script>', aria_label="y", hidden=True, title=None) == (
        '<a href="&quot;&gt;&lt;script&gt;" aria-label="y" hidden>x</a>'
    )
    assert escape("a\tb\nc") == "a\tb\nc"
    assert "&lt;b&gt;" in problem(404, "<b>")
