"""Listening at the feed's path: alone, for this user only, over a killed monitor's leftovers."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from proxy.errors import FeedError
from proxy.feed.endpoint import listen, socket_path


def test_a_path_too_long_for_a_socket_names_the_key() -> None:
    assert socket_path(Path("/" + "x" * 106)) == "/" + "x" * 106
    with pytest.raises(FeedError, match=r"feed\.socket: the path has 108 bytes"):
        socket_path(Path("/" + "x" * 107))


def test_the_longest_path_that_is_allowed_can_really_be_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    listen(socket_path(Path("x" * 107))).close()


def test_the_socket_file_is_this_users_alone_and_the_umask_is_as_before(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        with listen(str(tmp_path / "s")):
            assert stat.S_IMODE(os.stat(tmp_path / "s").st_mode) == 0o600
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)


def test_a_dead_monitors_socket_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
        dead.listen()
    with listen(path) as listener:
        assert listener.getsockname() == path


def test_a_live_listener_is_refused_and_untouched(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen()
        with pytest.raises(FeedError, match=r"feed\.socket: another process listens"):
            listen(path)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)


def test_a_live_listener_that_accepts_nothing_is_refused_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
    with socket.socket(socket.AF_UNIX) as live:
        live.bind(path)
        live.listen(0)
        for client in clients:
            client.setblocking(False)
            client.connect_ex(path)  # fills the backlog
        with pytest.raises(FeedError, match="another process listens"):
            listen(path)
    for client in clients:
        client.close()


def test_what_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_text("precious")
    with pytest.raises(FeedError, match="is no socket"):
        listen(str(path))
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(FeedError, match=r"feed\.socket: cannot listen at .*No such file"):
        listen(str(tmp_path / "none" / "s"))
