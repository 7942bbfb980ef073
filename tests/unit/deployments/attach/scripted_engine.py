"""An engine that somebody else launched: an OpenAI endpoint that does as its prompts say."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from aiohttp import web

from deployments.attach.requests import EngineRequest

TOKENS = ("one", " two", " three", " four")
VLLM_METRICS = """\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="theirs"} 3.0
vllm:num_requests_running{engine="1",model_name="theirs"} 2.0
vllm:num_requests_waiting{engine="0",model_name="theirs"} 1.0
vllm:num_requests_waiting_by_reason{engine="0",model_name="theirs",reason="capacity"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="theirs"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="theirs"} 0.75
vllm:prompt_tokens_total{engine="0",model_name="theirs"} 40.0
vllm:generation_tokens_total{engine="0",model_name="theirs"} 1.2e+02
vllm:spec_decode_num_drafts_total{engine="0",model_name="theirs"} 30.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="theirs"} 210.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="theirs"} 60.0
vllm:cache_config_info{block_size="32",engine="0",num_gpu_blocks="100",cache_dtype="auto"} 1.0
vllm:cache_config_info{block_size="32",engine="1",num_gpu_blocks="100",cache_dtype="auto"} 1.0
"""


class ScriptedEngine:
    """`asked` are the bodies that came, `left` those whose client went away. A `hangs` engine
    answers nothing that would take a token."""

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] = [{"id": "theirs", "max_model_len": 512}]
        self.metrics: str | None = VLLM_METRICS
        self.asks_for: str | None = None
        self.hangs = False
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.left: list[dict[str, Any]] = []
        self.url = ""

    async def models_list(self, request: web.Request) -> web.Response:
        if (
            self.asks_for is not None
            and request.headers.get("Authorization") != f"Bearer {self.asks_for}"
        ):
            return web.json_response({"error": "Unauthorized"}, status=401)
        return web.json_response({"object": "list", "data": self.models})

    async def metrics_text(self, _: web.Request) -> web.Response:
        if self.metrics is None:
            return web.Response(status=404)
        return web.Response(text=self.metrics)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append((request.path, body))
        self.headers.append(dict(request.headers))
        said = body.get("prompt") or body.get("input") or body["messages"][-1]["content"]
        behaviour = getattr(self, f"_{said.split()[-1]}", self._well)
        try:
            if self.hangs:
                await asyncio.sleep(60)
            return await behaviour(request, body)
        except (asyncio.CancelledError, ConnectionError):
            self.left.append(body)
            raise

    async def _well(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        usage = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
        if not body.get("stream"):
            text = "".join(TOKENS)
            choice = {"index": 0, "message": {"role": "assistant", "content": text}, "theirs": 1}
            named = {"id": "x", "created": 1, "model": body["model"]}
            return web.json_response(named | {"choices": [choice], "usage": usage, "more": [None]})
        reply = await self._begin(request)
        for i, token in enumerate(TOKENS, 1):
            chunk: dict[str, Any] = _chunk(body, {"content": token})
            if (body.get("stream_options") or {}).get("continuous_usage_stats"):
                chunk["usage"] = usage | {"completion_tokens": i}
            await _send(reply, chunk)
        await _send(reply, _chunk(body) | {"choices": [], "usage": usage})
        await reply.write(b"data: [DONE]\n\n")
        return reply

    async def _endless(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        reply = await self._begin(request)
        while True:
            await _send(reply, _chunk(body, {"content": "on "}))
            await asyncio.sleep(0.01)

    async def _cut(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        reply = await self._begin(request)
        await _send(reply, _chunk(body, {"content": "half"}))
        return reply

    async def _garbage(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        reply = await self._begin(request)
        await reply.write(b"data: nothing you know\n\n")
        return reply

    async def _slow(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return await self._well(request, body)

    async def _mute(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    async def _vllm(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        error = {"message": "too long", "type": "BadRequestError", "param": "prompt", "code": 400}
        return web.json_response({"error": error}, status=400)

    async def _sglang(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        error = {"object": "error", "message": "too long", "type": "BadRequest", "code": 422}
        return web.json_response(error, status=422)

    async def _page(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.Response(status=502, text="<html>bad gateway</html>")

    async def _busy(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.json_response({}, status=429, headers={"Retry-After": "7"})

    async def _key(self, request: web.Request, body: dict[str, Any]) -> web.Response:
        return web.json_response({"error": "Unauthorized"}, status=401)

    @staticmethod
    async def _begin(request: web.Request) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await reply.prepare(request)
        await reply.write(b": hello\n\n")
        return reply


def _chunk(body: dict[str, Any], delta: dict[str, Any] | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta or {}, "finish_reason": None}
    return {"id": "x", "created": 1, "model": body["model"], "choices": [choice]}


async def _send(reply: web.StreamResponse, chunk: dict[str, Any]) -> None:
    await reply.write(f"data: {json.dumps(chunk)}\n\n".encode())


def request_for(method: str, body: dict[str, Any]) -> EngineRequest:
    """As the ingress makes it of a body that its types take as it is."""
    generates = {"max_tokens": None} if method in ("chat", "completions") else {}
    return EngineRequest(method, body, SimpleNamespace(**generates | body))


@asynccontextmanager
async def scripted_engine(port: int = 0) -> AsyncIterator[ScriptedEngine]:
    engine = ScriptedEngine()
    app = web.Application()
    app.router.add_get("/v1/models", engine.models_list)
    app.router.add_get("/metrics", engine.metrics_text)
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize"):
        app.router.add_post(path, engine.answer)
    # As engines do, a request is abandoned when its client is gone.
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    host, port, *_ = runner.addresses[0]
    engine.url = f"http://{host}:{port}"
    try:
        yield engine
    finally:
        await runner.cleanup()
