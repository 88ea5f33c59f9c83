"""What every upstream looks like to the monitor: bytes in, bytes out, and a small error tree.

BackendError
├── BackendUnavailable    no connection, or it broke before a reply head: the engine is not there
├── BackendTimeout        it was there and took too long
└── BackendProtocolError  it answered something that is not HTTP, or past our bound

An HTTP status of any kind is a `Reply`, never an exception.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


class BackendError(Exception):
    """Base: no reply came. str() is one line for a person."""


class BackendUnavailable(BackendError):
    """No connection could be made, or it broke before the reply was whole."""


class BackendTimeout(BackendError):
    """The reply was not whole within the call's time-out."""


class BackendProtocolError(BackendError):
    """The answer was not HTTP, or larger than the bound."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One whole HTTP reply.

    Units:  seconds from the call to its last byte.
    """

    status: int
    content_type: str
    body: bytes
    duration_s: float

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Backend(Protocol):
    """One arm as the monitor calls it. Implementations own their connections and their API key."""

    name: str

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], timeout_s: float) -> Reply:
        """The whole reply to one POST.

        Raises:  BackendUnavailable, BackendTimeout, BackendProtocolError.
        """
        ...

    async def get(self, path: str, timeout_s: float) -> Reply:
        """The whole reply to one GET. Raises as `post`."""
        ...

    async def aclose(self) -> None:
        """Connections closed; the backend cannot be used again."""
        ...
