"""Which arms a contract is about: from a settings file, or from the words; and clients for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from backends.openai import OpenAIBackend
from proxy.errors import SettingsError
from proxy.settings import UpstreamSettings
from proxy.settings_file import load_settings
from scorers.catalogue import SPECS

CONNECT_TIMEOUT_S = 5.0  # *choice*: a person waits for it
MAX_REPLY_BYTES = 16 << 20  # as mirror.max_reply_bytes
CONNECTIONS = 32  # the spread of the heartbeat is measured with so many at once


@dataclass(frozen=True, slots=True)
class Arm:
    """One arm: where it is asked, where its files are, and its command line where somebody told it."""

    side: str
    url: str
    model: str | None
    weights: Path | None
    api_key: str | None
    flags: str | None = None

    def backend(self) -> OpenAIBackend:
        """A client of its own; to be closed."""
        return OpenAIBackend(
            self.side,
            self.url,
            api_key=self.api_key,
            connect_timeout_s=CONNECT_TIMEOUT_S,
            max_reply_bytes=MAX_REPLY_BYTES,
            max_connections=CONNECTIONS,
        )


@dataclass(frozen=True, slots=True)
class Words:
    """What the command line said of one arm."""

    url: str | None = None
    model: str | None = None
    weights: Path | None = None
    api_key_env: str | None = None
    flags: str | None = None


def arms_of(config: Path | None, said: Mapping[str, Words], environ: Mapping[str, str]) -> Mapping[str, Arm]:
    """The arms that are named anywhere, by side. The words win over the settings file.

    Raises:  SettingsError with every problem.
    """
    loaded = None if config is None else load_settings(config, environ, SPECS)
    arms, problems = {}, []
    for side, words in said.items():
        settings: UpstreamSettings | None = None
        key: str | None = None
        if loaded is not None:
            settings = getattr(loaded.settings, side)
            key = getattr(loaded.secrets, f"{side}_api_key")
        url = words.url or (settings.url if settings else None)
        if url is None:
            continue
        try:
            UpstreamSettings(url=url)
        except ValidationError as error:
            problems.append(f"--{side}: {error.errors()[0]['msg'].removeprefix('Value error, ')}")
        if words.api_key_env is not None:
            key = environ.get(words.api_key_env)
            if not key:
                problems.append(f"the environment has no {words.api_key_env}; export it, or leave the option out")
        arms[side] = Arm(
            side=side,
            url=url.rstrip("/"),
            model=words.model or (settings.model if settings else None),
            weights=words.weights or (settings.weights if settings else None),
            api_key=key,
            flags=words.flags,
        )
    if problems:
        raise SettingsError(problems)
    return arms
