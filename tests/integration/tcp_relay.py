"""A network that can be made slow or cut: bytes between two peers pass through here."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class TcpRelay:
    """Every chunk waits for `delay_s`, and as long as the network `is_cut`."""

    def __init__(self, host: str, port: int) -> None:
        self.delay_s = 0.0
        self.is_cut = False
        self.num_bytes = 0
        self._to = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        for one in self._sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._to)
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.delay_s)
                while self.is_cut:
                    time.sleep(0.01)
                sink.sendall(data)
                self.num_bytes += len(data)


@contextmanager
def relaying(address: str) -> Iterator[TcpRelay]:
    """A relay to a `tcp://HOST:PORT`."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    relay = TcpRelay(host, int(port))
    try:
        yield relay
    finally:
        relay.close()
