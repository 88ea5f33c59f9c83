"""What is tried before the reference is asked to speak: when, with which reply, and what a failure falls back to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson
import pytest

from backends.base import Reply
from backends.capabilities import Asking
from backends.shape import ShadowCall
from proxy.monitor.heard import Heard
from proxy.monitor.mirror import Answer, Answers, Mirror
from proxy.monitor.plan import Coins, Plan, asking_all, plan
from proxy.monitor.verify import TRUSTED_STEPS, Lesson, Verification, Verifier, lesson, spoken_by
from scorers.decode import decode_reply
from scorers.proof import Unproven, Verified
from scorers.records import DecodedReply
from tests.unit.monitor_rig import CHAT, Metrics, ScriptedBackend, chat_request, exchange, ok, settings

PROMPT = [1, 2, 3]
SAYS = "It rains."
END = 9_999


def ids(text: str) -> list[int]:
    return [ord(char) for char in text]


def listed(tokens: list[int], lead: float = 2.0) -> dict[str, Any]:
    def entry(token: int) -> dict[str, Any]:
        top = [
            {"token": f"token_id:{token}", "logprob": -0.1, "bytes": None},
            {"token": f"token_id:{token + 1}", "logprob": -0.1 - lead, "bytes": None},
        ]
        return {"token": f"token_id:{token}", "logprob": -0.1, "bytes": None, "top_logprobs": top}

    return {"content": [entry(token) for token in tokens]}


def said(text: str = SAYS, *, prompt: list[int] | None = PROMPT, **choice: Any) -> bytes:
    """A shadow reply with token ids and lists."""
    tokens = [*ids(text), END]
    whole = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": "stop",
        "token_ids": tokens,
        "logprobs": listed(tokens),
        **choice,
    }
    usage = {"prompt_tokens": 3, "completion_tokens": len(tokens)}
    return orjson.dumps({"model": "m", "choices": [whole], "usage": usage, "prompt_token_ids": prompt})


class Engine(ScriptedBackend):
    """A reference in memory: one character a token, one reply to everything, and a prefill that agrees with it.

    `broken` answers for a path instead; `lead` is by how much each token leads.
    """

    def __init__(self) -> None:
        super().__init__("reference", lambda path, body: ok(said()))
        self.broken: dict[str, Callable[[dict[str, Any]], Reply]] = {}
        self.lead = 2.0
        self.paths: list[str] = []
        self.asked: dict[str, Any] = {}  # the latest scoring call

    async def post(self, path: str, body: bytes, headers: Any, timeout_s: float) -> Reply:
        asked = orjson.loads(body)
        self.paths.append(path)
        if path in self.broken:
            return self.broken[path](asked)
        if path == "/tokenize":
            return ok(orjson.dumps({"tokens": ids(asked["prompt"]) if "prompt" in asked else PROMPT}))
        if path == "/detokenize":
            return ok(orjson.dumps({"prompt": "".join(map(chr, asked["tokens"]))}))
        if path == "/v1/completions":
            self.asked = asked
            return ok(self.scored(asked["prompt"][len(PROMPT) :]))
        return await super().post(path, body, headers, timeout_s)

    def scored(self, forced: list[int]) -> bytes:
        own = [*ids(SAYS), END]
        rows: list[Any] = [None, *({"1": {"logprob": -1.0}} for _ in PROMPT[1:])]
        for index, token in enumerate(forced):
            best = own[index] if index < len(own) else 5
            rows.append(
                {str(best): {"logprob": -0.1}, "7": {"logprob": -0.1 - self.lead}, str(token): {"logprob": -0.1}}
            )
            if best != token:
                rows[-1][str(token)] = {"logprob": -4.0}
        following = own[len(forced)] if len(forced) < len(own) else END
        key = f"token_id:{following}"
        logprobs = {"tokens": [key], "token_logprobs": [-0.1], "top_logprobs": [{key: -0.1, "token_id:7": -3.0}]}
        choice = {
            "index": 0,
            "text": "",
            "finish_reason": "stop" if following == END else "length",
            "token_ids": [following],
            "logprobs": {**logprobs, "text_offset": [0]},
            "prompt_logprobs": rows,
        }
        usage = {"prompt_tokens": len(PROMPT) + len(forced), "completion_tokens": 1}
        return orjson.dumps({"choices": [choice], "usage": usage})


class Rig:
    def __init__(self, **mirror: Any) -> None:
        self.settings = settings(mode="verify", **mirror)
        self.reference = Engine()
        self.candidate = ScriptedBackend("candidate", lambda path, body: ok(said()))
        self.mirror = Mirror(self.candidate, self.reference, self.settings.mirror, Metrics(), lambda: 0.0)
        self.asking = asking_all(self.settings)
        self.verifier = self.verifier_of_nothing()
        self.verifier.learn(1, Lesson(TRUSTED_STEPS))

    def verifier_of_nothing(self) -> Verifier:
        return Verifier(self.settings, self.mirror, self.offload, lambda: self.asking)

    async def offload(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments)

    def plan(self, *, replay: bool = True, served: bytes | None = None, **request: Any) -> Plan:
        coins = Coins(replay=replay, noise=False, teacher_forced=False, needle=False, keep=False)
        made = plan(exchange(request=chat_request(**request), reply=served or said()), coins, self.settings)
        assert isinstance(made, Plan)
        return made

    async def tried(self, plan: Plan, epoch: int = 1) -> tuple[Answers, Verification]:
        return await self.verifier.answers(plan, epoch)

    async def why(self, plan: Plan) -> Unproven:
        """Why it was not verified; and then the reference generated."""
        answers, found = await self.tried(plan)
        assert isinstance(found.outcome, Unproven)
        assert found.reply is None
        assert CHAT in self.reference.paths
        assert answers.reference.reply is not None
        assert (answers.replay is None) is (plan.replay is None)
        return found.outcome


def refusal(status: int = 404) -> Callable[[dict[str, Any]], Reply]:
    return lambda asked: Reply(status, "application/json", b'{"error": {"type": "no"}}', 0.0)


@pytest.mark.asyncio
@pytest.mark.parametrize("replay", [True, False])
async def test_what_the_reference_would_say_is_not_asked_for(replay: bool) -> None:
    rig = Rig()
    answers, found = await rig.tried(rig.plan(replay=replay))
    assert isinstance(found.outcome, Verified)
    assert found.outcome.tokens == (*ids(SAYS), END)
    assert found.reply is not None
    reply = found.reply
    assert (reply.choices[0].text, reply.choices[0].finish_reason) == (SAYS, "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (3, len(SAYS) + 1)
    assert CHAT not in rig.reference.paths
    assert rig.reference.asked["prompt_logprobs"] == (
        20 if replay else 2
    )  # the lists are compared with a replay's only
    assert (answers.replay is not None) is replay
    heard = Heard(answers, tried=found)
    assert heard.how == "verified"
    assert [(count.purpose, count.prefill, count.decode) for count in heard.spent(needle=False)] == [
        ("verify", 3 + len(SAYS), 1)
    ]
    assert decode_reply("chat", "", heard.reference_body).choices[0].text == SAYS


@pytest.mark.asyncio
async def test_another_reply_is_regenerated_and_both_are_paid_for() -> None:
    rig = Rig()
    rig.candidate.behaviour = lambda path, body: ok(said("It snows."))
    answers, found = await rig.tried(rig.plan())
    assert found.outcome is Unproven.ANOTHER_TOKEN
    heard = Heard(answers, tried=found)
    assert heard.how == "regenerated/another_token"
    assert [count.purpose for count in heard.spent(needle=True)] == ["verify", "needle"]
    assert heard.reference_body == said()


@pytest.mark.asyncio
async def test_a_replay_is_asked_for_once_whatever_comes_of_it() -> None:
    rig = Rig()
    rig.candidate.behaviour = lambda path, body: ok(said("It snows."))
    await rig.tried(rig.plan())
    assert len(rig.candidate.bodies) == 1


@pytest.mark.asyncio
async def test_what_is_decided_before_anything_is_asked() -> None:
    for wanted, more in {
        Unproven.REQUEST: {"frequency_penalty": 0.5},
        Unproven.TOO_LONG: {"text": "word " * 50_000},
    }.items():
        rig = Rig()
        assert await rig.why(rig.plan(**more)) is wanted
        assert rig.reference.paths == [CHAT]


@pytest.mark.asyncio
@pytest.mark.parametrize("coin", ["noise", "teacher_forced"])
async def test_a_pair_with_a_coin_is_measured_in_full(coin: str) -> None:
    rig = Rig()
    coins = Coins(
        **{"replay": True, "noise": False, "teacher_forced": False, "needle": False, "keep": False, coin: True}
    )
    made = plan(exchange(request=chat_request(), reply=said()), coins, rig.settings)
    assert isinstance(made, Plan)
    assert await rig.why(made) is Unproven.COIN


@pytest.mark.asyncio
async def test_nothing_is_believed_before_the_engine_has_shown_it_nor_after_it_has_not() -> None:
    rig = Rig()
    rig.verifier = rig.verifier_of_nothing()
    assert await rig.why(rig.plan()) is Unproven.UNTRUSTED
    rig.verifier.learn(1, Lesson(TRUSTED_STEPS - 1))
    assert not rig.verifier.trusts(1)
    rig.verifier.learn(1, Lesson(1))
    assert rig.verifier.trusts(1)
    rig.verifier.learn(1, Lesson(10, "bent"))
    rig.verifier.learn(1, Lesson(TRUSTED_STEPS))
    assert not rig.verifier.trusts(1)
    assert not rig.verifier.trusts(2)  # another engine, perhaps: it shows itself anew
    rig.verifier.learn(2, Lesson(TRUSTED_STEPS))
    assert rig.verifier.trusts(2)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("path", "broken"),
    [
        ("/tokenize", refusal()),
        ("/tokenize", lambda asked: ok(b"garbage")),
        ("/tokenize", lambda asked: ok(b'{"tokens": ["a"]}')),
        ("/tokenize", lambda asked: ok(b'{"tokens": []}')),
        ("/detokenize", refusal()),
        ("/detokenize", lambda asked: ok(b"[]")),
        ("/v1/completions", refusal(400)),
        ("/v1/completions", refusal(500)),
        ("/v1/completions", lambda asked: ok(b'{"choices": [{"index": 0, "text": ""}]}')),
    ],
)
async def test_an_engine_that_cannot_is_asked_for_its_reply(path: str, broken: Callable[[Any], Reply]) -> None:
    rig = Rig()
    rig.reference.broken[path] = broken
    assert await rig.why(rig.plan()) is Unproven.ENGINE
    assert rig.mirror.health["reference"].failures_in_a_row == 0


@pytest.mark.asyncio
@pytest.mark.parametrize("how", [Asking(20, forced=False), Asking(1)])
async def test_what_an_engine_is_known_to_lack_is_not_asked_of_it(how: Asking) -> None:
    rig = Rig()
    rig.asking = how, how
    assert await rig.why(rig.plan()) is Unproven.ENGINE
    assert rig.reference.paths == [CHAT]


@pytest.mark.asyncio
async def test_a_candidate_that_reads_another_prompt() -> None:
    rig = Rig()
    rig.candidate.behaviour = lambda path, body: ok(said(prompt=[1, 2, 4]))
    assert await rig.why(rig.plan()) is Unproven.PROMPTS_DIFFER


@pytest.mark.asyncio
async def test_near_ties_and_the_setting_that_says_what_is_near() -> None:
    rig = Rig()
    rig.reference.lead = 0.4
    assert await rig.why(rig.plan()) is Unproven.NEAR_TIE
    rig = Rig(verify_margin_nats=0.3)
    rig.reference.lead = 0.4
    assert isinstance((await rig.tried(rig.plan()))[1].outcome, Verified)


@pytest.mark.asyncio
async def test_a_reply_cut_at_its_length_needs_the_length_to_be_the_requests() -> None:
    cut = {"token_ids": ids(SAYS), "finish_reason": "length"}
    for limit, expected in ((len(SAYS), None), (len(SAYS) + 1, Unproven.ANOTHER_END), (None, Unproven.ANOTHER_END)):
        rig = Rig()
        rig.candidate.behaviour = lambda path, body: ok(said(**cut))
        found = (await rig.tried(rig.plan(**({} if limit is None else {"max_tokens": limit}))))[1].outcome
        assert isinstance(found, Verified) if expected is None else found is expected


@pytest.mark.asyncio
async def test_a_message_that_is_not_its_raw_text() -> None:
    rig = Rig()
    rig.candidate.behaviour = lambda path, body: ok(said(message={"role": "assistant", "content": "It rains"}))
    assert await rig.why(rig.plan()) is Unproven.PARSED


@pytest.mark.asyncio
async def test_while_the_breaker_is_open_nothing_is_called() -> None:
    rig = Rig(breaker_failures=1)
    rig.reference.broken[CHAT] = refusal(500)
    rig.reference.broken["/v1/completions"] = refusal(500)
    await rig.tried(rig.plan())
    before = len(rig.reference.paths)
    answers, found = await rig.tried(rig.plan())
    assert len(rig.reference.paths) == before
    assert answers.reference.missing is not None
    assert found.reply is None


def test_the_replays_tokens_are_held_against_the_reference_else_the_served_text() -> None:
    rig = Rig()
    made = rig.plan(served=said("Served."))
    with_ids = spoken_by(made, Answer(reply=ok(said())))
    assert not isinstance(with_ids, Unproven)
    assert with_ids.tokens == tuple(ids(SAYS))
    for replay in (None, Answer(), Answer(reply=ok(said(token_ids=None)))):
        served = spoken_by(made, replay)
        assert not isinstance(served, Unproven)
        assert (served.tokens, served.reply.choices[0].text) == (None, "Served.")


@pytest.mark.parametrize(
    ("served", "why"),
    [
        (said(""), Unproven.REPLY),
        (said("see <|im_end|> there"), Unproven.REPLY),
        (said(message={"content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}), Unproven.REPLY),
        (said(finish_reason="content_filter"), Unproven.ANOTHER_END),
        (b"garbage", Unproven.REPLY),
    ],
)
def test_served_replies_that_cannot_be_held_against_anything(served: bytes, why: Unproven) -> None:
    assert spoken_by(Rig().plan(replay=False, served=served), None) is why


def reply(body: bytes) -> DecodedReply:
    return decode_reply("chat", "application/json", body)


@pytest.mark.parametrize(
    ("right", "replay", "prompt", "wrong"),
    [
        (said(), said(), PROMPT, ""),
        (said(), None, None, ""),
        (said(), said("It snows."), PROMPT, ""),
        (said(logprobs=listed([*ids(SAYS), END], lead=-1.0)), None, None, "top of the reference's own lists"),
        (said(), None, [1, 2, 4], "renders another prompt"),
        (said(), said(message={"role": "assistant", "content": "rains"}), PROMPT, "another parser"),
    ],
)
def test_what_a_generated_reply_teaches(right: bytes, replay: bytes | None, prompt: Any, wrong: str) -> None:
    tried = Verification(Unproven.COIN, prompt=None if prompt is None else tuple(prompt))
    learned = lesson(reply(right), None if replay is None else reply(replay), tried)
    assert wrong in learned.wrong
    assert bool(learned.wrong) is bool(wrong)
    assert learned.steps == len(SAYS) + 1


def test_a_request_with_a_penalty_of_its_own_teaches_nothing() -> None:
    bent = reply(said(logprobs=listed([*ids(SAYS), END], lead=-1.0)))
    assert lesson(bent, None, Verification(Unproven.REQUEST)) == Lesson(0)


@pytest.mark.asyncio
async def test_an_arm_that_refuses_an_optional_call_is_no_worse_for_it() -> None:
    rig = Rig()
    rig.reference.broken["/tokenize"] = refusal(404)
    rig.reference.broken["/v1/completions"] = refusal(503)
    health = rig.mirror.health["reference"]
    answer = await rig.mirror.ask("reference", ShadowCall("/tokenize", b"{}"), {}, optional=True)
    assert (answer.reply, answer.status, health.failures_in_a_row) == (None, 404, 0)
    await rig.mirror.ask("reference", ShadowCall("/v1/completions", b"{}"), {}, optional=True)
    assert health.failures_in_a_row == 1  # a 5xx is no refusal
    await rig.mirror.ask("reference", ShadowCall("/tokenize", b"{}"), {})
    assert health.failures_in_a_row == 2
