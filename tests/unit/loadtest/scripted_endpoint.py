"""An OpenAI endpoint that behaves, or misbehaves, as the last word of a prompt says."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

CHUNKS = (1, 3, 2, 4)  # tokens each


class ScriptedEndpoint(ThreadingHTTPServer):
    """Answers in chunks of `chunks` tokens, the first after `ttft_s`, then one each `gap_s`."""

    daemon_threads = True

    def __init__(self, chunks: tuple[int, ...], ttft_s: float, gap_s: float) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.chunks, self.ttft_s, self.gap_s = chunks, ttft_s, gap_s
        self.asked: list[dict] = []
        self.token_ids = True
        self.api_key: str | None = None
        self.card = {"id": "demo", "max_model_len": 512}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        """Clients may go away."""


@contextmanager
def scripted_endpoint(
    chunks: tuple[int, ...] = CHUNKS, ttft_s: float = 0.0, gap_s: float = 0.0
) -> Iterator[ScriptedEndpoint]:
    server = ScriptedEndpoint(chunks, ttft_s, gap_s)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedEndpoint
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if self._is_unknown():
            return
        self._answer(200, json.dumps({"data": [self.server.card]}).encode())

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._is_unknown():
            return
        self.server.asked.append(request)
        content = request["messages"][-1]["content"]
        text = content if isinstance(content, str) else content[0]["text"]
        behaviour = getattr(self, f"_{text.split()[-1].replace('-', '_')}", self._well)
        behaviour()

    def _is_unknown(self) -> bool:
        key = self.server.api_key
        if key is None or self.headers["Authorization"] == f"Bearer {key}":
            return False
        self._answer(401, b"no such key")
        return True

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _begin(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def _write(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def _event(self, document: dict | str) -> None:
        text = document if isinstance(document, str) else json.dumps(document)
        self._write(f"data: {text}\n\n".encode())

    def _chunks(self) -> None:
        time.sleep(self.server.ttft_s)
        for i, num_tokens in enumerate(self.server.chunks):
            if i:
                time.sleep(self.server.gap_s)
            choice = {"index": 0, "delta": {"content": "ab " * num_tokens}}
            if self.server.token_ids:
                choice["token_ids"] = list(range(num_tokens))
            if i == len(self.server.chunks) - 1:
                choice["finish_reason"] = "length"
            self._event({"object": "chat.completion.chunk", "choices": [choice]})

    def _usage(self) -> None:
        usage = {"prompt_tokens": 9, "completion_tokens": sum(self.server.chunks)}
        self._event({"object": "chat.completion.chunk", "choices": [], "usage": usage})

    def _well(self) -> None:
        self._begin()
        self._chunks()
        self._usage()
        self._event("[DONE]")
        self._end()

    def _busy(self) -> None:
        self._answer(429, b'{"error": {"message": "too many"}}')

    def _broken(self) -> None:
        self._answer(500, b"<html>oops")

    def _stall(self) -> None:
        self._begin()
        self._chunks()
        self.wfile.flush()
        time.sleep(5)

    def _mute(self) -> None:
        time.sleep(5)

    def _reset(self) -> None:
        self._begin()
        self._chunks()
        self.wfile.flush()
        time.sleep(0.2)  # a reset may overtake what was not read yet
        # Linger of zero seconds: closing sends a reset instead of an end.
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        os.close(self.connection.detach())

    def _cut(self) -> None:
        self._begin()
        self._chunks()
        self._end()

    def _garbage(self) -> None:
        self._begin()
        self._write(b"\xff\xfe\x00 nothing you know\n\n")
        self._end()

    def _not_json(self) -> None:
        self._begin()
        self._chunks()
        self._event("{'choices'")
        self._end()

    def _wrong_shape(self) -> None:
        self._begin()
        self._event('{"choices": 7}')
        self._end()

    def _error_inside(self) -> None:
        self._begin()
        self._chunks()
        self._event({"error": {"message": "engine died"}})
        self._end()

    def _empty(self) -> None:
        self._begin()
        self._event("[DONE]")
        self._end()

    def log_message(self, *args):
        pass
