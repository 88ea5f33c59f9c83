"""What a lack costs follows from one table, and says the same of a contract that was stored."""

from __future__ import annotations

import orjson
import pytest

from backends.capabilities import Capabilities, Capability, Finding
from proxy.monitor.lacks import _SAID, BEARING, NEEDS, Lacks, Need, lack_changes, lacking, told
from proxy.presets import PRESETS
from scorers.catalogue import SPECS

IGNORED, REFUSED, HAS = Finding.IGNORED, Finding.REFUSED, Finding.HAS


def found(**findings: Finding) -> Capabilities:
    every = dict.fromkeys(Capability, HAS)
    return Capabilities({**every, **{Capability(name): how for name, how in findings.items()}}, 20, 20, engine="other")


def test_the_table_names_scores_and_every_capability_is_said() -> None:
    assert NEEDS.keys() <= SPECS.keys()
    assert set(_SAID) == set(Capability)
    for said in _SAID.values():
        assert all(said)
    assert {name for name, spec in SPECS.items() if "logprob" in name or "top1" in name} <= NEEDS.keys()


@pytest.mark.parametrize("capability", list(Capability))
@pytest.mark.parametrize("finding", [Finding.IGNORED, Finding.REFUSED, Finding.MISSING])
def test_each_lack_is_one_sentence_with_its_cost_and_what_to_do(capability: Capability, finding: Finding) -> None:
    one = Capabilities({capability: finding}, 20, None, engine="sglang", why={capability: "HTTP 400: no"})
    [lack] = told("reference", one)
    assert lack.sentence.startswith("the reference (sglang) ")
    assert "(HTTP 400: no)" in lack.sentence
    assert _SAID[capability].fix in lack.sentence
    assert "\n" not in lack.sentence
    for name, needs in NEEDS.items():
        assert (name in lack.sentence) == (Need("reference", (capability,)) in needs), name


def test_what_follows_from_another_lack_is_not_said_twice() -> None:
    none = found(logprobs=IGNORED, top_logprobs=IGNORED, token_id_keys=IGNORED, stream_logprobs=IGNORED)
    assert [lack.capability for lack in told("candidate", none)] == ["logprobs"]
    [why] = Lacks({"candidate": lacking(none)}).unscorable(["top1_disagreement"]).values()
    assert why.count("candidate lacks") == 1
    assert told("candidate", found()) == []


def test_only_what_bears_on_the_scores_is_in_the_contract_and_it_survives_json() -> None:
    assert lacking(found(version=Finding.MISSING, seed=REFUSED, tokenize=IGNORED)) == {}
    assert lacking(found(token_ids=REFUSED)) == {"token_ids": "refused"}
    short = Capabilities({Capability.TOP_LOGPROBS: REFUSED}, 20, 5)
    assert lacking(short) == {"top_logprobs": "5 of 20"}
    assert Lacks({"reference": lacking(short)}).unscorable(SPECS) == {}  # shorter lists are lists
    stored = orjson.loads(orjson.dumps({"lacks": {"reference": lacking(found(logprobs=REFUSED))}}))
    assert set(Lacks.of(stored).unscorable(SPECS)) == {
        "logprob_kl", "logprob_kl_max", "logprob_tv", "top1_disagreement", "tail_mass", "reference_doubt",
    }  # fmt: skip
    assert Lacks.of({}).unscorable(SPECS) == {}
    assert Capability.LOGPROBS in BEARING
    assert Capability.VERSION not in BEARING


def test_one_of_two_ways_is_enough_and_neither_is_said() -> None:
    assert "early_divergence" not in Lacks({"candidate": {"logprobs": "ignored"}}).unscorable(SPECS)
    both = Lacks({"candidate": {"logprobs": "ignored", "token_ids": "missing"}}).unscorable(SPECS)
    assert "the candidate lacks logprobs (ignored) and the ids of its tokens (missing)" in both["early_divergence"]


def test_a_noise_pair_has_the_reference_on_both_sides() -> None:
    lacks = Lacks({"candidate": {"logprobs": "ignored"}})
    assert lacks.against("logprob_kl")
    assert not lacks.against("logprob_kl", "noise")


def test_each_workloads_budgets_say_what_they_would_wait_for_in_vain() -> None:
    nothing = dict.fromkeys(map(str, Capability), "missing")
    for workload, preset in PRESETS.items():
        hopeless = Lacks({"candidate": nothing, "reference": nothing}).unscorable(preset)
        assert hopeless, workload
        assert all(why.startswith("no pair can give it a number: ") for why in hopeless.values())


def test_changes_are_named_both_ways() -> None:
    lines = lack_changes({"reference": {"token_ids": "refused"}}, {"candidate": {"top_logprobs": "5 of 20"}})
    assert lines == [
        "candidate top_logprobs: had became lacking (5 of 20)",
        "reference token_ids: lacking (refused) became had",
    ]
    assert lack_changes(None, {}) == []
