"""Reads the settings file: every problem at once, each with the key, what is wrong and the fix."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args

import orjson
from pydantic import ValidationError

from proxy.errors import SettingsError
from proxy.presets import with_preset
from proxy.settings import LOOPBACK_HOSTS, Settings
from scorers.records import ScoreSpec


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the environment gave, by role. Never logged, never part of `Settings`."""

    candidate_api_key: str | None = None
    reference_api_key: str | None = None
    control_token: str | None = None
    gate_token: str | None = None
    sampling_salt: bytes = b""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file that was understood: the settings, the secrets it names, and the file itself."""

    settings: Settings
    secrets: Secrets
    path: Path


def load_settings(path: Path, environ: Mapping[str, str], scores: Mapping[str, ScoreSpec]) -> Loaded:
    """The settings of one TOML file with the secrets that it names, or every problem found in it at once.

    `scores` are the scores that exist; a budget for any other is refused.

    Raises:  SettingsError with one line per problem: the key, what is wrong, the fix.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError([f"{path}: there is no such file; `parity init-config` writes one to start from"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: cannot be read: {error}"]) from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError([f"{path}: not TOML: {error}"]) from None
    settings = parse_settings(document, scores)
    return Loaded(settings, read_secrets(settings, environ), path)


def parse_settings(document: Mapping[str, Any], scores: Mapping[str, ScoreSpec]) -> Settings:
    """The settings that a parsed document stands for.

    Raises:  SettingsError.
    """
    document, misused = with_preset(document)
    try:
        # Through JSON, because strict mode then takes lists for tuples and strings for paths and nothing else.
        settings = Settings.model_validate_json(orjson.dumps(document, default=str))
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_url=False)]
        named = document.get("budgets")
        unknown = _unknown_budgets(named, scores) if isinstance(named, Mapping) else []
        raise SettingsError(problems + unknown + misused) from None
    problems = misused + _budget_problems(settings, scores) + _contradictions(settings)
    if problems:
        raise SettingsError(problems)
    return settings


def read_secrets(settings: Settings, environ: Mapping[str, str]) -> Secrets:
    """The secrets from the variables that the settings name.

    Raises:  SettingsError where a named variable is unset or empty.
    """
    problems: list[str] = []

    def read(key: str, variable: str | None) -> str | None:
        if variable is None:
            return None
        if not environ.get(variable):
            problems.append(f"{key}: the environment has no {variable}; export it, or remove the key")
            return None
        return environ[variable]

    secrets = Secrets(
        candidate_api_key=read("candidate.api_key_env", settings.candidate.api_key_env),
        reference_api_key=read("reference.api_key_env", settings.reference.api_key_env),
        control_token=read("control.token_env", settings.control.token_env),
        gate_token=read("control.gate_token_env", settings.control.gate_token_env),
        sampling_salt=(read("sampling.salt_env", settings.sampling.salt_env) or settings.sampling.salt).encode(),
    )
    if secrets.gate_token is not None and secrets.gate_token == secrets.control_token:
        problems.append("control.gate_token_env: the same token as control.token_env, so it would open everything")
    if problems:
        raise SettingsError(problems)
    return secrets


def _problem(detail: Mapping[str, Any]) -> str:
    """One line of pydantic's report in our words: the key, what is wrong, the fix."""
    key = ".".join(str(part) for part in detail["loc"]) or "settings"
    kind, message = str(detail["type"]), str(detail["msg"])
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_nearest(detail['loc'])}; remove it or correct its name"
    if kind == "missing":
        hint = {
            "candidate": ' add [candidate] with url = "http://..."',
            "reference": ' add [reference] with url = "http://..."',
            "budgets": " the gate needs at least one critical budget, e.g. [budgets.tool_call_mismatch], "
            'or those of a workload: [gate] with workload = "chat", "agent", "code" or "long_context"',
        }.get(key, " add it")
        return f"{key}: missing;{hint}"
    if kind == "value_error":
        return f"{key}: {message.removeprefix('Value error, ')}"
    return f"{key}: {message[0].lower()}{message[1:]} (it says {detail.get('input')!r})"


def _nearest(location: tuple[Any, ...]) -> str:
    """A suggestion for a misspelt key, from the fields of the table it stands in."""
    model: Any = Settings
    for part in location[:-1]:
        field = getattr(model, "model_fields", {}).get(str(part))
        model = field.annotation if field is not None else None
        model = next((part for part in get_args(model) if part is not NoneType), model)
    names = list(getattr(model, "model_fields", {}))
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    return f' (did you mean "{close[0]}"?)' if close else ""


def _unknown_budgets(names: Iterable[str], scores: Mapping[str, ScoreSpec]) -> list[str]:
    problems = []
    for name in names:
        if name not in scores:
            close = difflib.get_close_matches(name, list(scores), n=1)
            hint = f'did you mean "{close[0]}"?' if close else "the scores are: " + ", ".join(sorted(scores))
            problems.append(f"budgets.{name}: there is no such score; {hint}")
    return problems


def _budget_problems(settings: Settings, scores: Mapping[str, ScoreSpec]) -> list[str]:
    problems = _unknown_budgets(settings.budgets, scores)
    if problems:
        return problems
    for name, budget in settings.budgets.items():
        if scores[name].bounded and budget.limit >= 1.0:
            problems.append(
                f"budgets.{name}.limit: {budget.limit:g} can never be passed over; "
                "this score lies between 0 and 1, so give a share such as 0.03"
            )
    critical = [name for name, budget in settings.budgets.items() if budget.critical]
    if not any(scores[name].bounded for name in critical):
        name = critical[0]
        problems.append(
            f"budgets.{name}.critical: a score without an upper bound ({scores[name].unit}) can roll back but "
            "not promote; keep it, and make a bounded score critical beside it, e.g. [budgets.tool_call_mismatch]"
        )
    return problems


def _contradictions(settings: Settings) -> list[str]:
    problems = []
    if settings.control.host not in LOOPBACK_HOSTS and settings.control.token_env is None:
        problems.append(
            f'control.host: "{settings.control.host}" is not loopback, so a token is needed; '
            'set control.token_env = "PARITY_CONTROL_TOKEN" and export it'
        )
    if settings.control.gate_token_env is not None and settings.control.token_env is None:
        problems.append(
            "control.gate_token_env: without control.token_env the whole port is open to this machine; "
            'set control.token_env = "PARITY_CONTROL_TOKEN" too, or remove the key'
        )
    relay, control = settings.relay, settings.control
    if relay.port and (relay.host, relay.port) == (control.host, control.port):
        problems.append(f"control.port: {control.port} is relay.port too; give each a port of its own")
    for key, path in (("tls_certificate", relay.tls_certificate), ("tls_key", relay.tls_key)):
        if path is not None and not path.is_file():
            problems.append(f"relay.{key}: there is no file {path}")
    for key, folder in (("ledger.path", settings.ledger.path.parent), ("feed.socket", settings.feed.socket.parent)):
        if not folder.is_dir():
            problems.append(f"{key}: there is no folder {folder}; create it, or give another path")
    if settings.candidate.url == settings.reference.url:
        problems.append("reference.url: the same as candidate.url, so nothing would be compared; give the BF16 engine")
    if settings.reference.model not in (None, settings.candidate.model):
        for key, wanted in (("rollout", settings.rollout), ("relay.failover", settings.relay.failover)):
            if wanted is not None:
                problems.append(
                    f"{key}: the reference then serves clients, whose requests are never edited, so it must answer to "
                    "the model name that they use (vLLM's --served-model-name takes several); do so, and remove "
                    "reference.model"
                )
    if settings.mirror.teacher_forced_rate > 0 and not settings.reference.teacher_forcing:
        problems.append(
            "mirror.teacher_forced_rate: the reference must be a vLLM that allows prompt_logprobs; "
            "set reference.teacher_forcing = true, or set the rate to 0"
        )
    if settings.mirror.late_after_s <= settings.mirror.timeout_s:
        problems.append(
            f"mirror.late_after_s: {settings.mirror.late_after_s:g} is not above mirror.timeout_s "
            f"({settings.mirror.timeout_s:g}), so slow replies would be counted lost while they are awaited; raise it"
        )
    return problems
