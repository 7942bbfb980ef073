"""An attached engine's HTTP: what it serves, whether a token comes out, what it says of itself."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

import aiohttp

from deployments.attach.engine_metrics import EngineReading, read_metrics
from deployments.errors import ConfigError, EngineLostError

CONNECT_S = 5.0
_ASK_S = 5.0  # for what an engine answers without computing
_METRICS_S = 1.0
_RETRY_S = 1.0

# One token, in the order tried: a model may generate, chat alone, or embed.
_PROBES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/completions", {"prompt": ".", "max_tokens": 1, "temperature": 0}),
    (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": "."}], "max_tokens": 1, "temperature": 0},
    ),
    ("/v1/embeddings", {"input": "."}),
)


class EngineSilentError(EngineLostError):
    """It did not answer in time: it may have too much to do."""


class Endpoint:
    """One engine at `url`, where the model is called `model`.

    Whatever ends a connection is an EngineLostError. To be made where an event loop runs.
    """

    def __init__(self, url: str, model: str, key: str | None) -> None:
        self.url, self.model = url, model
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._requests = self._open()  # of clients
        self._looks = self._open()  # our own
        self._probe: tuple[str, dict[str, Any]] | None = None

    def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # No limit: seats are what bounds them, and a watch what ends those that hang.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            headers=self._headers,
        )

    def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> aiohttp.client._RequestContextManager:
        """As a context: left early, the engine sees its client gone."""
        return self._requests.post(
            self.url + path, json=body, headers=headers, allow_redirects=False
        )

    async def drop_all(self) -> None:
        """End every client's request that is under way; it raises what a lost connection does."""
        requests, self._requests = self._requests, self._open()
        await requests.close()

    async def close(self) -> None:
        await self._requests.close()
        await self._looks.close()

    async def card(self) -> dict[str, Any]:
        """The model as the engine lists it.

        Raises ConfigError where it lists others alone, EngineLostError where it does not answer.
        """
        status, raw = await self._get("/v1/models", _ASK_S)
        if status in (401, 403):
            raise ConfigError(
                f"{self.url} asks for an API key ({status}); put it in an environment variable "
                "and name that in attach.api_key_env"
            )
        listed = _listed(raw) if status == 200 else None
        if listed is None:
            raise ConfigError(
                f"{self.url}/v1/models answers {status} and no list of models: what it serves "
                "cannot be known; give the address of an OpenAI endpoint in attach.url"
            )
        if self.model not in listed:
            there = ", ".join(sorted(listed)) or "nothing"
            raise ConfigError(
                f"{self.url} serves {there}, not {self.model}; name one of them in attach.model, "
                "or give another attach.url"
            )
        return listed[self.model]

    async def wait(self, wait_s: float) -> dict[str, Any]:
        """`card`, of an engine that may not listen yet. Raises ConfigError."""
        deadline_s = time.monotonic() + wait_s
        while True:
            try:
                return await self.card()
            except EngineLostError as error:
                if time.monotonic() >= deadline_s:
                    raise ConfigError(
                        f"{self.url} does not answer ({error}); start the engine, mend "
                        "attach.url, or wait longer for it with attach.wait_s"
                    ) from None
            await asyncio.sleep(_RETRY_S)

    async def find_probe(self, limit_s: float) -> None:
        """See how a token is had of it. Raises ConfigError."""
        said = []
        for path, body in _PROBES:
            try:
                status, raw = await self._post_whole(path, body, limit_s)
            except EngineLostError as error:
                said.append(f"{path}: {error}")
                continue
            if status == 200:
                self._probe = (path, body)
                return
            said.append(f"{path}: {status} {raw[:200].decode(errors='replace')}")
        raise ConfigError(
            f"{self.url} lists {self.model} and gives no token of it; {'; '.join(said)}"
        )

    async def probe(self, limit_s: float) -> None:
        """Have one token made. Raises EngineLostError where there is none in time."""
        assert self._probe is not None, "find_probe comes first"
        status, raw = await self._post_whole(*self._probe, limit_s)
        if status != 200 and status != 429:  # who is too busy for one more is alive
            raise EngineLostError(f"{status} {raw[:200].decode(errors='replace')}")

    async def metrics(self) -> EngineReading | str:
        """What it says of itself, or why it says nothing."""
        try:
            status, raw = await self._get("/metrics", _METRICS_S)
        except EngineLostError as error:
            return f"GET /metrics: {error}"
        if status != 200:
            return f"GET /metrics: {status}; SGLang has them with --enable-metrics"
        reading = read_metrics(raw.decode(errors="replace"))
        return reading or "GET /metrics: nothing there is of vLLM or SGLang"

    async def _get(self, path: str, limit_s: float) -> tuple[int, bytes]:
        return await self._whole("GET", path, limit_s)

    async def _post_whole(
        self, path: str, body: Mapping[str, Any], limit_s: float
    ) -> tuple[int, bytes]:
        return await self._whole("POST", path, limit_s, json={**body, "model": self.model})

    async def _whole(
        self, method: str, path: str, limit_s: float, **kwargs: Any
    ) -> tuple[int, bytes]:
        try:
            async with (
                asyncio.timeout(limit_s),
                self._looks.request(
                    method, self.url + path, allow_redirects=False, **kwargs
                ) as reply,
            ):
                return reply.status, await reply.read()
        except TimeoutError:
            raise EngineSilentError(f"no answer in {limit_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise EngineLostError(str(error) or type(error).__name__) from None


def _listed(raw: bytes) -> dict[str, dict[str, Any]] | None:
    """Models by id; None where `raw` is no list of models."""
    try:
        return {str(card["id"]): card for card in json.loads(raw)["data"]}
    except (ValueError, KeyError, TypeError):
        return None
