"""What can go wrong on our side. An upstream's 4xx or 5xx is no error of ours: it passes through.

ParityError
├── SettingsError        the configuration file or the environment; names the key and the fix
├── FeedError            the transport between relay and monitor: a frame that cannot be read
├── LedgerError          the durable record cannot be read or written
├── RolloutError         an operator's act that the staged rollout does not allow now
├── SupervisorError      a child process that will not stay up
└── LaunchError          an engine that cannot be started, or ended by itself
"""

from __future__ import annotations


class ParityError(Exception):
    """Base of every error of the proxy; str() is one line for a person."""


class SettingsError(ParityError):
    """The configuration does not say what must be known. `problems` has one line each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class FeedError(ParityError):
    """A frame on the feed that is not one of ours, or past its bound."""


class LedgerError(ParityError):
    """The ledger is of another version, corrupt, locked, or its disk is full."""


class RolloutError(ParityError):
    """There is no staged rollout, or it stands where this act means nothing."""


class SupervisorError(ParityError):
    """A child process of `parity serve` could not be kept up."""


class LaunchError(ParityError):
    """An engine of `parity launch` cannot be started as asked, or ended before it was told to."""
