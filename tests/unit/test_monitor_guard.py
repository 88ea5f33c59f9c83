"""Which names are this machine's own, and which paths only ask for the verdict."""

from __future__ import annotations

import pytest

from proxy.monitor.guard import asks_gate, is_loopback, names_loopback


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example", "localhost.x"])
def test_beyond(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize("header", ["localhost", "localhost:9090", "127.0.0.1:1", "[::1]:9090", "[::1]"])
def test_host_headers_of_loopback(header: str) -> None:
    assert names_loopback(header)


@pytest.mark.parametrize(
    "header", ["", ":80", "evil.example", "[::1", "evil.example#localhost", "localhost@evil.example"]
)
def test_host_headers_of_others(header: str) -> None:
    assert not names_loopback(header)


@pytest.mark.parametrize("path", ["/gate", "/gate/v1/argo", "/gate/v1/flagger/rollout"])
def test_paths_that_ask_the_gate(path: str) -> None:
    assert asks_gate(path)


@pytest.mark.parametrize("path", ["/", "/gate/", "/gate/reset", "/gate/v1", "/gates", "/pairs", "/metrics", "/state"])
def test_paths_that_do_more(path: str) -> None:
    assert not asks_gate(path)
