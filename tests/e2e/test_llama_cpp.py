"""A real llama.cpp on both sides: what it can do, what is scored between two GGUF files, what never is and is said.

The shipped model as F16 (the reference) and Q4_0 (the candidate). `make llama` installs the server; with LLAMA_SERVER a
binary of one's own build is tried instead.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from backends.capabilities import Capabilities, find
from backends.contract import Contract, observe
from backends.emulator.recipes import parsed
from backends.emulator.server import EmulatorServer
from backends.emulator.tasks.traffic import bodies
from backends.openai import OpenAIBackend
from proxy.demo.stage import serving
from proxy.monitor.ledger_reader import open_read_only
from scorers.records import Reason
from tests.e2e.engines import WORK
from tests.e2e.llama_cpp import MISSING, gguf, servers

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING or "installed")

# llama.cpp announces keep-alive after a stream, and closes: without a pool no request meets a connection that ends.
SETTINGS = """\
[candidate]
url = "{candidate}"
[reference]
url = "{reference}"
teacher_forcing = true
[relay]
port = 0
pool_idle_timeout_s = 0.000001
[sampling]
rate = 1.0
large_body_rate = 1.0
[feed]
socket = "{folder}/feed.sock"
[mirror]
concurrency = 2
noise_rate = 0.5
replay_rate = 1.0
teacher_forced_rate = 0.5
[ledger]
path = "{folder}/ledger.sqlite"
[control]
port = 0
[gate]
recipe = "q4_0"
[budgets.top1_disagreement]
limit = 0.1
critical = true
[budgets.teacher_forced_kl]
limit = 0.05
critical = true
"""
SETTLE_S = 120.0


@dataclass
class Played:
    """What clients got, and what the proxy said at the end."""

    statuses: Counter[int] = field(default_factory=Counter)
    state: dict[str, Any] = field(default_factory=dict)
    gate: dict[str, Any] = field(default_factory=dict)
    ready: dict[str, Any] = field(default_factory=dict)
    values: dict[tuple[str, str], list[float | Reason]] = field(default_factory=lambda: defaultdict(list))

    def numbers(self, name: str, arm: str = "candidate") -> list[float]:
        return [value for value in self.values[arm, name] if not isinstance(value, Reason)]

    def lost(self, name: str, arm: str = "candidate") -> set[str]:
        return {str(value) for value in self.values[arm, name] if isinstance(value, Reason) and value.lost}


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, str]]:
    with servers({"candidate": gguf("q4_0"), "reference": gguf("f16")}) as urls:
        yield urls


@pytest.fixture(scope="module")
def run(engines: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Played:
    played = asyncio.run(_played(engines["candidate"], engines["reference"], tmp_path_factory.mktemp("llama"), 60))
    figures = {
        f"{arm} {name}": {"pairs": len(numbers), "mean": sum(numbers) / len(numbers)}
        for arm, name in sorted(played.values)
        if (numbers := played.numbers(name, arm))
    }
    (WORK / "llama.json").write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    return played


async def _played(candidate: str, reference: str, folder: Path, number: int) -> Played:
    played, config = Played(), folder / "parity.toml"
    config.write_text(SETTINGS.format(candidate=candidate, reference=reference, folder=folder))
    async with serving(config) as urls:
        requests = islice(map(_readable, bodies(5, "m")), number)
        async with httpx.AsyncClient(base_url=urls["relay"], timeout=60, trust_env=False) as client:

            async def worker() -> None:
                for body in requests:
                    played.statuses[(await client.post("/v1/chat/completions", json=body)).status_code] += 1

            await asyncio.gather(*(worker() for _ in range(3)))
        async with httpx.AsyncClient(base_url=urls["control"], timeout=30, trust_env=False) as control:
            async with asyncio.timeout(SETTLE_S):
                while not await _settled(control, number):  # noqa: ASYNC110  another process, bounded by the time-out
                    await asyncio.sleep(0.3)
            played.state = (await control.get("/state")).json()
            played.gate = (await control.get("/gate")).json()
            played.ready = (await control.get("/readyz")).json()
    with closing(open_read_only(folder / "ledger.sqlite")) as reader:
        for epoch in range(1, played.state["epoch"] + 1):
            for observation in reader.observations(epoch):
                for arm in ("candidate", "noise"):
                    for name, value in getattr(observation, arm).items():
                        played.values[arm, name].append(value)
    return played


async def _settled(control: httpx.AsyncClient, number: int) -> bool:
    """Whether all were counted, or another epoch began, in whose coverage those of the first are not."""
    counted = (await control.get("/gate")).json()["coverage"]["sampled"]
    return bool(counted >= number or (await control.get("/state")).json()["epoch"] > 1)


def _readable(body: dict[str, Any]) -> dict[str, Any]:
    """llama.cpp answers 500 to a tool whose description is null, which OpenAI's API allows."""
    for tool in body.get("tools", ()):
        tool["function"]["description"] = tool["function"].get("description") or ""
    return body


def ask(url: str, top: int = 20) -> tuple[Capabilities, Contract]:
    async def asked() -> tuple[Capabilities, Contract]:
        backend = OpenAIBackend(
            "reference", url, api_key=None, connect_timeout_s=2.0, max_reply_bytes=1 << 22, max_connections=2
        )
        try:
            return await find(backend, "m", top_logprobs=top, teacher_forcing=True), await observe(backend, "m")
        finally:
            await backend.aclose()

    return asyncio.run(asked())


def test_what_it_can_do(engines: dict[str, str]) -> None:
    found, contract = ask(engines["reference"])
    findings = {str(capability): str(finding) for capability, finding in found.findings.items()}
    assert findings == {
        "chat": "has",
        "completions": "has",
        "logprobs": "has",
        "top_logprobs": "has",
        "token_ids": "ignored",
        "token_id_keys": "has",
        "prompt_logprobs": "ignored",
        "tools": "has",
        "tool_choice": "ignored",
        "seed": "has",
        "stream_logprobs": "has",
        "tokenize": "has",
        "version": "missing",
        "max_model_len": "has",
    }
    assert (found.engine, found.top_logprobs, found.max_model_len) == ("llamacpp", 20, 4096)
    assert contract.template is not None
    assert contract.system_fingerprint is not None


def test_another_quantization_is_another_contract(engines: dict[str, str]) -> None:
    one, other = ask(engines["reference"])[1], ask(engines["candidate"])[1]
    assert one.template == other.template
    assert one.root != other.root


def test_every_client_was_served(run: Played) -> None:
    assert run.statuses == {200: 60}


@pytest.mark.parametrize(
    "name",
    ["logprob_kl", "top1_disagreement", "early_divergence", "text_mismatch", "tool_call_mismatch", "copy_recall_loss"],
)
def test_what_is_scored(run: Played, name: str) -> None:
    assert run.numbers(name)
    assert run.lost(name) == set()


def test_the_reference_agrees_with_itself_and_the_candidate_does_not(run: Played) -> None:
    floor, candidate = run.numbers("logprob_kl", "noise"), run.numbers("logprob_kl")
    assert len(floor) >= 10
    assert max(floor) < 1e-3
    assert sum(candidate) / len(candidate) > 1e-3


def test_what_never_is_and_is_said(run: Played) -> None:
    assert run.numbers("teacher_forced_kl") == []
    assert run.lost("teacher_forced_kl") == {"engine_lacks"}
    assert run.gate["verdict"] == "inconclusive"
    why = "teacher_forced_kl: no pair can give it a number: the candidate lacks the ids of its tokens (ignored); "
    assert [reason for reason in run.gate["reasons"] if reason.startswith(why)]
    assert run.ready["ready"]
    assert {(lack["arm"], lack["capability"]) for lack in run.ready["lacks"]} >= {
        ("candidate", "token_ids"),
        ("reference", "prompt_logprobs"),
    }
    assert run.gate["contract"]["lacks"] == {
        "candidate": {"token_ids": "ignored"},
        "reference": {"prompt_logprobs": "ignored", "token_ids": "ignored"},
    }


def test_a_tokenizer_that_cuts_otherwise_is_named_before_any_weight(engines: dict[str, str], tmp_path: Path) -> None:
    """GGUF cannot hold the checkpoint's pre-tokenizer: beside an engine that reads it, prompts have other tokens."""

    async def beside_the_emulator() -> Played:
        async with EmulatorServer(parsed("bf16")) as reference:
            return await _played(engines["reference"], reference.url, tmp_path, 40)

    played = asyncio.run(beside_the_emulator())
    assert played.gate["verdict"] == "inconclusive"
    assert played.gate["contract"]["prompt_tokens"] == "differ"
    assert (
        "compare chat template, tokenizer and tool parser of both engines before any weight"
        in orjson.dumps(played.gate["reasons"]).decode()
    )
    assert "tokens_differ" in played.lost("logprob_kl")
