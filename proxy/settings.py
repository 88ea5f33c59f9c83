"""The one TOML file, strict: what is unknown, half-given or contradictory is refused with its key and fix.

Every bound carries its unit in its name. Secrets come from the environment: the file names the variable.
Defaults are a *choice* unless a source is given beside them.
"""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

MIB = 1024 * 1024
MAX_STEPS = 100  # of a rollout; the feed has one byte for it

Rate = Annotated[float, Field(ge=0.0, le=1.0)]
Seconds = Annotated[float, Field(gt=0.0, le=86_400.0)]
Bytes = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=0, le=65_535)]


# What backends/shape.py refuses to send on a shadow call, whatever is allowed; a test holds the two lists together.
_CREDENTIAL_PARTS = ("auth", "cookie", "token", "secret", "api-key", "apikey", "credential", "password")
_FRAMING = ("host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect")
_CONTENT = ("content-length", "content-encoding", "content-type", "accept", "accept-encoding")
_IDENTITY = ("x-request-id", "openai-organization", "openai-project", "forwarded", "x-forwarded-for", "x-real-ip")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 5.6.2
_NEVER_FORWARDED = frozenset({*_FRAMING, *_CONTENT, *_IDENTITY})


class Section(BaseModel):
    """Base of every table: frozen, no unknown keys, no silent conversion of strings to numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RelaySettings(Section):
    """The client's side of the data plane. Port 0 lets the system choose (tests, the demo)."""

    host: str = "127.0.0.1"
    port: Port = 8080
    workers: Annotated[int, Field(ge=1, le=64)] = 1
    allow_paths: tuple[str, ...] = ("/health", "/version", "/ping", "/tokenize", "/detokenize")
    max_connections: Annotated[int, Field(ge=1)] = 4096  # of clients; each is an open file
    max_in_flight: Annotated[int, Field(ge=1)] = 1024
    retry_after_s: Annotated[int, Field(ge=1, le=3600)] = 1
    max_body_bytes: Bytes = 32 * MIB
    max_head_bytes: Bytes = 64 * 1024
    max_headers: Annotated[int, Field(ge=1)] = 100
    head_timeout_s: Seconds = 30.0
    body_idle_timeout_s: Seconds = 60.0
    keepalive_timeout_s: Seconds = 75.0
    connect_timeout_s: Seconds = 2.0
    connect_attempts: Annotated[int, Field(ge=1, le=5)] = 2
    first_byte_timeout_s: Seconds = 600.0
    pool_idle_timeout_s: Seconds = 4.0  # below uvicorn's 5 s, so that the candidate never closes first
    drain_timeout_s: Seconds = 30.0
    write_buffer_bytes: Bytes = 64 * 1024
    failover: Literal["reference"] | None = None  # who answers when the candidate fails before its first byte
    max_failover_bytes: Bytes = 64 * MIB  # of bodies held for that, per worker; one without room does not fail over
    tls_certificate: Path | None = None
    tls_key: Path | None = None

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            missing = "tls_key" if self.tls_key is None else "tls_certificate"
            raise ValueError(f"half of TLS is given; also set {missing}, or remove both")
        return self

    @field_validator("allow_paths")
    @classmethod
    def _paths_are_absolute(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            if not path.startswith("/"):
                raise ValueError(f'"{path}" must start with "/"')
        return paths


class UpstreamSettings(Section):
    """One arm. `model` is the name that shadow calls use there; the served request is never edited.

    `weights` is where its files are on the monitor's machine; without it the engine's own word is looked up there.
    """

    url: str
    model: str | None = None
    weights: Path | None = None
    api_key_env: str | None = None

    @field_validator("url")
    @classmethod
    def _url_is_an_origin(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f'"{url}" is no origin; write it like "http://127.0.0.1:8000"')
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ValueError(f'"{url}" has a path; give the origin alone, without /v1')
        try:
            parts.hostname.encode("ascii").decode("ascii").encode("idna")
            _ = parts.port
        except (UnicodeError, ValueError) as wrong:
            raise ValueError(
                f'"{url}" names no host that could be looked up, or no port; write both in ASCII'
            ) from wrong
        if parts.username or parts.password:
            raise ValueError("no credentials in the url; name a variable with api_key_env")
        return url.rstrip("/")


class ReferenceSettings(UpstreamSettings):
    """The reference. Its own key; `teacher_forcing` says that it is a vLLM that allows prompt_logprobs.

    `contract` is a pin of `parity contract pin`: while an arm is not what it says, nothing is judged.
    """

    teacher_forcing: bool = False
    contract: Path | None = None


class SamplingSettings(Section):
    """Which requests are mirrored. `salt_env` names a variable; without it the salt is this file's."""

    rate: Rate = 0.05
    large_body_bytes: Bytes = 64 * 1024
    large_body_rate: Rate = 0.05
    salt: str = "parity"
    salt_env: str | None = None


class FeedSettings(Section):
    """Relay to monitor. Bounds are per relay worker; past them the newest is dropped and counted."""

    socket: Path = Path("parity-feed.sock")
    max_queue_bytes: Bytes = 64 * MIB
    max_queue_exchanges: Annotated[int, Field(ge=1)] = 2048
    max_request_bytes: Bytes = 32 * MIB
    max_response_bytes: Bytes = 16 * MIB
    max_capture_bytes: Bytes = 256 * MIB
    reconnect_interval_s: Seconds = 0.5


class MirrorSettings(Section):
    """The shadow calls: how many, how long, how often."""

    mode: Literal["regenerate", "verify"] = "regenerate"  # verify: docs/reference-cost.md
    verify_margin_nats: Annotated[float, Field(ge=0.0, le=100.0)] = 0.5  # *choice*; two steps of a bf16 logit past 16
    concurrency: Annotated[int, Field(ge=1, le=4096)] = 16
    max_queue_exchanges: Annotated[int, Field(ge=1)] = 1024
    max_queue_bytes: Bytes = 256 * MIB
    timeout_s: Seconds = 120.0
    late_after_s: Seconds = 300.0
    breaker_failures: Annotated[int, Field(ge=1)] = 5
    breaker_cooldown_s: Seconds = 10.0
    noise_rate: Rate = 0.25
    replay_rate: Rate = 0.25
    teacher_forced_rate: Rate = 0.0
    needle_rate: Rate = 0.05
    top_logprobs: Annotated[int, Field(ge=1, le=20)] = 20
    max_replay_tokens: Annotated[int, Field(ge=1)] = 2048  # of replayed requests that set no limit of their own
    max_reply_bytes: Bytes = 16 * MIB  # held at once: at most concurrency x 3 (both arms, the noise run), so 768 MiB
    max_scored_prompt_tokens: Annotated[int, Field(ge=1)] = 8192
    forward_headers: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _verify_sees_the_runner_up(self) -> Self:
        if self.mode == "verify" and self.top_logprobs < 2:
            raise ValueError('mode = "verify" compares the best token with the next one; set top_logprobs = 2 or more')
        return self

    @field_validator("forward_headers")
    @classmethod
    def _no_credentials(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if any(part in name.lower() for part in _CREDENTIAL_PARTS):
                raise ValueError(f'"{name}" carries the client\'s credentials; give the arm its own api_key_env')
            if name.lower() in _NEVER_FORWARDED:
                raise ValueError(f'"{name}" is never sent on shadow calls (identity or framing); remove it')
        return tuple(name.lower() for name in names)


class LedgerSettings(Section):
    """The durable record, and which bodies are kept with it."""

    path: Path = Path("parity-ledger.sqlite")
    retention_days: Annotated[float, Field(gt=0.0)] = 30.0
    max_bytes: Annotated[int, Field(ge=MIB)] = 2048 * MIB
    keep_mismatches: bool = True
    keep_share: Rate = 0.01
    max_body_bytes: Bytes = 256 * 1024
    redact: tuple[str, ...] = ()


class ControlSettings(Section):
    """The monitor's own port. Bound beyond loopback it must have a token.

    `gate_token_env` names a second token, which may ask the gate and nothing else.
    """

    host: str = "127.0.0.1"
    port: Port = 9090
    token_env: str | None = None
    gate_token_env: str | None = None


class ProvenSettings(Section):
    """Evidence for one axis: a recipe that changed it alone, and the ledger in which it passed."""

    recipe_file: Path
    ledger: Path


class GateSettings(Section):
    """When the evidence may decide. Source of the defaults: metrology 4.5.

    With `recipe_file`, a recipe that changes several axes of its parent cannot pass without evidence for each
    (`proven`), unless `several_axes` says that it may.
    """

    recipe: str = "candidate"
    recipe_file: Path | None = None
    several_axes: bool = False
    proven: tuple[ProvenSettings, ...] = ()
    workload: Literal["chat", "agent", "code", "long_context"] | None = None  # its budgets: presets.py
    alpha_promote: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.05
    alpha_rollback: Annotated[float, Field(gt=0.0, lt=0.5)] = 0.01
    max_pairs: Annotated[int, Field(ge=1)] = 1_000_000
    min_coverage: Rate = 0.5
    look_interval_s: Seconds = 30.0  # how often the arms' contracts are looked at


class BudgetSettings(Section):
    """One criterion. `limit` is the drop that the product accepts, in the score's own unit."""

    limit: Annotated[float, Field(gt=0.0)]
    critical: bool = False
    noise_multiple: Annotated[float, Field(gt=0.0)] = 3.0
    allow_noise_multiple_above_3: bool = False
    slack: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.01
    strata: tuple[Literal["length", "tools"], ...] = ()  # kept apart by these; each stratum passes for itself

    @field_validator("strata")
    @classmethod
    def _strata_are_distinct(cls, strata: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(strata)) != len(strata):
            raise ValueError(f"{list(strata)} names one twice; give each once")
        return strata

    @model_validator(mode="after")
    def _multiple_is_bounded(self) -> Self:
        if self.noise_multiple > 3.0 and not self.allow_noise_multiple_above_3:
            raise ValueError(
                f"noise_multiple {self.noise_multiple:g} is above 3 times the noise floor; "
                "lower it, or set allow_noise_multiple_above_3 = true (the report will say so)"
            )
        return self


class StepSettings(Section):
    """One step of a rollout: the share of the clients, and what the next step waits for."""

    share: Rate
    pairs: Annotated[int, Field(ge=0)] = 200
    seconds: Annotated[float, Field(ge=0.0, le=30 * 86_400.0)] = 600.0


class RolloutSettings(Section):
    """A staged rollout without a mesh. Without this table the candidate serves everything.

    `sticky` names the headers that tell one client from another; the first that a request has decides. A step is left
    once it has seen its pairs and its time and no budget is over; the last, the whole, needs the verdict pass. After
    `max_silence_s` without a monitor the reference serves (0: never), unless the candidate was promoted.
    """

    sticky: tuple[str, ...] = ("authorization",)
    max_silence_s: Annotated[float, Field(ge=0.0, le=86_400.0)] = 30.0
    steps: tuple[StepSettings, ...] = (
        StepSettings(share=0.05),
        StepSettings(share=0.25),
        StepSettings(share=1.0),
    )

    @field_validator("sticky")
    @classmethod
    def _names_are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not _HEADER_NAME.fullmatch(name):
                raise ValueError(f'"{name}" is no header\'s name; write it like "x-session-id"')
        return tuple(name.lower() for name in names)

    @field_validator("steps")
    @classmethod
    def _steps_rise_to_the_whole(cls, steps: tuple[StepSettings, ...]) -> tuple[StepSettings, ...]:
        if not 2 <= len(steps) <= MAX_STEPS:
            raise ValueError(f"it has {len(steps)} of them; give from 2 to {MAX_STEPS}, the last with share = 1.0")
        shares = [step.share for step in steps]
        if any(later <= earlier for earlier, later in pairwise(shares)) or shares[-1] != 1.0:
            raise ValueError(f"the shares are {shares}; let them rise from step to step, up to 1.0")
        return steps


class Settings(Section):
    """Everything that a relay and a monitor need to know."""

    candidate: UpstreamSettings
    reference: ReferenceSettings
    relay: RelaySettings = RelaySettings()
    sampling: SamplingSettings = SamplingSettings()
    feed: FeedSettings = FeedSettings()
    mirror: MirrorSettings = MirrorSettings()
    ledger: LedgerSettings = LedgerSettings()
    control: ControlSettings = ControlSettings()
    gate: GateSettings = GateSettings()
    rollout: RolloutSettings | None = None
    budgets: dict[str, BudgetSettings]

    @model_validator(mode="after")
    def _verifying_needs_prompt_logprobs(self) -> Self:
        if self.mirror.mode == "verify" and not self.reference.teacher_forcing:
            raise ValueError(
                'mirror: mode = "verify" asks the reference for prompt_logprobs; '
                "set reference.teacher_forcing = true where its engine allows them"
            )
        return self

    @model_validator(mode="after")
    def _one_budget_is_critical(self) -> Self:
        if not any(budget.critical for budget in self.budgets.values()):
            raise ValueError(
                "budgets: the gate has no critical budget, so nothing could fail a recipe; "
                "set critical = true on the workload-defining one, e.g. [budgets.tool_call_mismatch]"
            )
        return self


LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1", "localhost"})
