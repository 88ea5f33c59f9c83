"""One port for all workers, refused when it is another's; no supervisor, no tie."""

from __future__ import annotations

import socket

import pytest

from proxy.errors import SupervisorError
from proxy.supervisor.child import SUPERVISED, die_with_parent, reserve_port


def worker_socket(port: int) -> socket.socket:
    worker = socket.socket()
    worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    worker.bind(("127.0.0.1", port))
    return worker


def test_a_reserved_port_is_shared_by_workers_and_takes_no_connection_itself() -> None:
    port, holder = reserve_port("127.0.0.1", 0)
    with holder:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
        with worker_socket(port) as first, worker_socket(port) as second:
            first.listen(128)
            second.listen(128)
            clients = [socket.create_connection(("127.0.0.1", port), timeout=5) for _ in range(64)]
            first.setblocking(False)
            second.setblocking(False)
            accepted = []
            for listener in (first, second):
                while len(accepted) < 64:
                    try:
                        accepted.append(listener.accept()[0])
                    except BlockingIOError:
                        break
            assert len(accepted) == 64
            for connection in (*clients, *accepted):
                connection.close()


def test_a_given_port_stays_ours_over_a_workers_restart() -> None:
    port, holder = reserve_port("127.0.0.1", 0)
    with holder:
        worker_socket(port).close()
        with pytest.raises(OSError, match="in use"), socket.socket() as other:
            other.bind(("127.0.0.1", port))
        worker_socket(port).close()


@pytest.mark.parametrize("shares", [False, True])
def test_a_port_that_another_program_listens_on_is_refused_even_when_it_would_share(shares: bool) -> None:
    with socket.socket() as other:
        if shares:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SupervisorError, match=rf"relay\.port: cannot use 127\.0\.0\.1:{port}: .*in use"):
            reserve_port("127.0.0.1", port)


def test_what_cannot_be_bound_is_told_under_its_own_setting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(SupervisorError, match=rf"^control\.port: cannot use 127\.0\.0\.1:{port}: "):
            reserve_port("127.0.0.1", port, "control.port")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "x" * 70, "a..b", "192.0.2.1"])
def test_a_host_that_is_not_ours_is_one_line(host: str) -> None:
    with pytest.raises(SupervisorError, match=r"^control\.(host|port): cannot use ") as caught:
        reserve_port(host, 0, "control.port")
    assert "\n" not in str(caught.value)


def test_a_port_just_left_by_a_server_with_closed_connections_can_be_reserved() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        accepted, _ = server.accept()
        accepted.close()  # the server's side goes to TIME_WAIT
        client.close()
    reserve_port("127.0.0.1", port)[1].close()


@pytest.mark.parametrize("value", [None, "", "yes"])
def test_an_unsupervised_process_is_tied_to_nobody(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv(SUPERVISED, raising=False)
    else:
        monkeypatch.setenv(SUPERVISED, value)
    assert not die_with_parent()
