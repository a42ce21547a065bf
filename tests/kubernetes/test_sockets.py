"""Connections to a cluster are asked after when they are silent."""

from __future__ import annotations

import socket

from dms_executor.kubernetes.sockets import kept_alive


def test_a_silent_connection_is_asked_after_and_one_without_an_answer_ends() -> None:
    with kept_alive((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 1))) as made:
        assert not made.getblocking()
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 60
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 120_000
