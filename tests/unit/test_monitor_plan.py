"""Plans: who is eligible, what is called, and coins that fall the same way whenever tossed."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import orjson
import pytest

from proxy.exchange import Outcome, ServedBy
from proxy.monitor.plan import Coins, Plan, Tosser, TurnedAway, estimated_tokens, plan, seed_of
from scorers.records import Reason
from tests.unit.monitor_rig import chat_reply, chat_request, exchange, settings

ALL = Coins(replay=True, noise=True, teacher_forced=True, needle=True, keep=True)
NONE = Coins(replay=False, noise=False, teacher_forced=False, needle=False, keep=False)
SAMPLED = chat_request(temperature=0.7)
GZIP = ((b"Content-Encoding", b"gzip"),)


def planned(coins: Coins = NONE, **more: Any) -> Plan:
    made = plan(exchange(0, **more), coins, settings())
    assert isinstance(made, Plan)
    return made


def test_greedy_without_coins_is_one_reference_call_against_the_served_reply() -> None:
    made = planned()
    assert made.served is not None
    assert made.served.body == chat_reply()
    assert (made.replay, made.control, made.failed, made.probe) == (None, None, None, None)
    body = orjson.loads(made.reference.body)
    assert (body["model"], body["temperature"], body["logprobs"]) == ("ref", 0, True)
    assert "stream" not in body


def test_greedy_with_coins_keeps_the_served_reply_and_adds_calls() -> None:
    made = planned(ALL)
    assert made.served is not None
    assert made.replay is not None
    assert made.control is not None
    assert orjson.loads(made.replay.body)["model"] == "cand"
    assert orjson.loads(made.control.body)["seed"] != orjson.loads(made.reference.body)["seed"]


def test_a_sampled_request_is_replayed_greedily_on_both_arms_or_not_at_all() -> None:
    made = planned(ALL, request=SAMPLED)
    assert made.served is None
    assert made.replay is not None
    assert orjson.loads(made.replay.body)["temperature"] == 0
    turned = plan(exchange(0, request=SAMPLED), NONE, settings())
    assert isinstance(turned, TurnedAway)
    assert turned.reason == "sampled_not_replayed"
    assert turned.request is not None


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"method": "GET"}, "method"),
        ({"target": "/v1/embeddings"}, "path"),
        ({"request": b"{"}, "bad_request"),
        ({"request": b'{"messages": []}'}, "bad_request"),
        ({"request": b'\xff{"a":1}'}, "bad_request"),
        ({"request": chat_request(n=99)}, "unsupported"),
        ({"status": 401}, "client_error"),  # the client's own key: the reference never sees it
        ({"status": 403}, "client_error"),
        ({"outcome": Outcome.CLIENT_CLOSED}, "client_closed"),
        ({"request_headers": ((b"content-encoding", b"br"),)}, "content_coding"),
        ({"request_headers": GZIP}, "content_coding"),  # says gzip and is not
    ],
)
def test_who_is_turned_away_and_why(more: dict[str, Any], reason: str) -> None:
    turned = plan(exchange(0, **more), NONE, settings())
    assert isinstance(turned, TurnedAway)
    assert turned.reason == reason


@pytest.mark.parametrize(
    "more",
    [
        *({"status": status} for status in (500, 503, 0, 302, 408, 425, 429)),
        {"outcome": Outcome.CANDIDATE_FAILED},
        {"outcome": Outcome.CANDIDATE_FAILED, "status": 400},
    ],
)
@pytest.mark.parametrize("request_body", [chat_request(), SAMPLED])
def test_a_failed_candidate_is_planned_as_failed(more: dict[str, Any], request_body: dict[str, Any]) -> None:
    made = planned(ALL, request=request_body, **more)
    assert made.failed is Reason.CANDIDATE_ERROR
    assert made.served is None


@pytest.mark.parametrize(
    "more",
    [
        {"response_headers": ((b"content-encoding", b"zstd"),)},
        {"response_headers": GZIP},  # says gzip and is not
        {"response_headers": GZIP, "reply": gzip.compress(chat_reply(), mtime=0)[:-4]},  # cut
    ],
)
def test_a_reply_that_cannot_be_unpacked_counts_against_the_candidate(more: dict[str, Any]) -> None:
    made = planned(ALL, request=chat_request(), **more)
    assert (made.failed, made.served) == (Reason.CANDIDATE_UNDECODABLE, None)
    assert planned(ALL, request=SAMPLED, **more).failed is None  # the replay is looked at, not this reply


@pytest.mark.parametrize("status", [400, 404, 413, 422])
def test_what_the_candidate_refuses_is_for_the_reference_to_judge(status: int) -> None:
    made = planned(ALL, status=status)
    assert (made.refused, made.failed, made.served) == (status, None, None)
    turned = plan(exchange(0, request=SAMPLED, status=status), NONE, settings())
    assert isinstance(turned, TurnedAway)
    assert turned.reason == "sampled_not_replayed"


def test_an_unknown_model_reaches_the_reference_under_the_name_that_the_client_gave() -> None:
    assert orjson.loads(planned(status=404).reference.body)["model"] == "m"
    assert orjson.loads(planned(status=400).reference.body)["model"] == "ref"
    named = {**chat_request(), "model": "cand"}  # what the candidate should know
    assert orjson.loads(planned(status=404, request=named).reference.body)["model"] == "ref"


def test_replays_without_a_limit_get_one_on_all_arms_and_served_replies_do_not() -> None:
    def limits(of: Plan) -> list[int | None]:
        calls = [call for call in (of.reference, of.replay, of.control) if call is not None]
        return [orjson.loads(call.body).get("max_tokens") for call in calls]

    assert limits(planned(ALL, request=SAMPLED)) == [2048] * 3
    assert limits(planned(ALL)) == [None] * 3
    assert limits(planned(ALL, request={**SAMPLED, "max_tokens": 9000})) == [9000] * 3
    own = orjson.loads(planned(ALL, request={**SAMPLED, "max_completion_tokens": 9000}).reference.body)
    assert (own.get("max_tokens"), own["max_completion_tokens"]) == (None, 9000)


def test_lengths_are_exact_for_ids_and_estimated_by_script_for_text() -> None:
    def length(body: dict[str, Any], target: str = "/v1/completions") -> int:
        made = plan(exchange(0, request={"model": "m", "temperature": 0, **body}, target=target), NONE, settings())
        assert isinstance(made, Plan)
        return estimated_tokens(made.request)

    assert length({"prompt": [5] * 700}) == 700
    assert length({"prompt": "x" * 700}) == 175
    assert length({"prompt": "\u6771" * 700}) == 700
    assert length({"prompt": "\u6771" * 100 + "x" * 400}) == 200
    assert length({"prompt": []}) == 0


def test_whoever_does_not_know_the_secret_salt_cannot_foretell_the_coins() -> None:
    of = settings(replay_rate=0.5)
    ids = [f"id-{n}" for n in range(200)]
    mine, others = (Tosser(of, salt) for salt in (b"secret", of.sampling.salt.encode()))
    assert [mine.toss(id).replay for id in ids] != [others.toss(id).replay for id in ids]


def test_content_codings_are_undone_within_a_bound() -> None:
    body = orjson.dumps(chat_request())
    made = planned(
        request=gzip.compress(body),
        request_headers=GZIP,
        reply=zlib.compress(chat_reply()),
        response_headers=((b"content-encoding", b"deflate"), (b"content-type", b"application/json")),
    )
    assert made.request_body == body
    assert made.served is not None
    assert (made.served.body, made.served.content_type) == (chat_reply(), "application/json")


def test_credentials_do_not_travel() -> None:
    of = settings(forward_headers=("x-tenant",))
    headers = ((b"X-Tenant", b"blue"), (b"authorization", b"Bearer x"), (b"x-other", b"y"))
    made = plan(exchange(0, request_headers=headers), NONE, of)
    assert made.headers["x-tenant"] == "blue"
    assert not {"authorization", "x-other"} & set(made.headers)


def test_coins_are_stable_independent_and_fall_at_their_rates() -> None:
    of = settings(replay_rate=0.25, noise_rate=0.5, needle_rate=0.1, teacher_forced_rate=1.0)
    ids = [f"id-{n}" for n in range(4000)]
    first, again = Tosser(of, b"s"), Tosser(of, b"s")
    tossed = [first.toss(id) for id in ids]
    assert tossed == [again.toss(id) for id in ids]
    assert 0.22 < sum(c.replay for c in tossed) / 4000 < 0.28
    assert 0.47 < sum(c.noise for c in tossed) / 4000 < 0.53
    assert 0.10 < sum(c.replay and c.noise for c in tossed) / 4000 < 0.15
    assert all(c.teacher_forced for c in tossed)
    assert not any(c.keep for c in tossed)


def test_no_teacher_forcing_on_a_reference_that_does_not_allow_it() -> None:
    of = settings(teacher_forced_rate=1.0)
    plain = of.model_copy(update={"reference": of.reference.model_copy(update={"teacher_forcing": False})})
    assert not Tosser(plain, b"s").toss("id").teacher_forced


def test_seeds_fit_every_engine_and_differ_by_run() -> None:
    assert {0 <= seed_of(f"id-{n}", "first") < 1 << 31 for n in range(200)} == {True}
    assert seed_of("id", "first") != seed_of("id", "second")


def test_what_the_reference_served_is_replayed_on_both_arms_or_says_nothing() -> None:
    made = planned(ALL, served_by=ServedBy.REFERENCE)
    assert (made.served, made.failed, made.refused) == (None, None, 0)
    assert made.replay is not None
    assert orjson.loads(made.replay.body)["max_tokens"] == settings().mirror.max_replay_tokens
    turned = plan(exchange(0, served_by=ServedBy.REFERENCE), NONE, settings())
    assert isinstance(turned, TurnedAway)
    assert (turned.reason, turned.request is not None) == ("served_by_reference", True)


@pytest.mark.parametrize("more", [{"status": 500}, {"status": 0, "outcome": Outcome.CANDIDATE_FAILED}])
def test_a_reference_that_failed_its_client_is_no_failure_of_the_candidate(more: dict[str, Any]) -> None:
    made = planned(ALL, served_by=ServedBy.REFERENCE, **more)
    assert (made.failed, made.replay is not None) == (None, True)


def test_a_request_that_failed_over_is_a_failure_of_the_candidate() -> None:
    made = planned(ALL, served_by=ServedBy.FAILOVER)
    assert (made.failed, made.served) == (Reason.CANDIDATE_ERROR, None)


@pytest.mark.parametrize("arm", [ServedBy.REFERENCE, ServedBy.FAILOVER])
def test_what_the_reference_itself_refused_was_the_clients_error(arm: ServedBy) -> None:
    turned = plan(exchange(0, served_by=arm, status=400), ALL, settings())
    assert isinstance(turned, TurnedAway)
    assert turned.reason == "client_error"
