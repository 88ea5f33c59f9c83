"""Frames of the feed."""

from __future__ import annotations

from proxy.settings import FeedSettings


def max_frame_bytes(settings: FeedSettings) -> int:
    """The largest frame that a relay under these settings may send. Units: bytes."""
    return settings.max_request_bytes + settings.max_response_bytes + 1024 * 1024
