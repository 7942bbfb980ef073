"""A headless Chromium told what to do over its debugging pipe: size, colours, keys, screenshots."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

_ANSWER_S = 60.0


class Browser:
    """One window. Ids of its protocol's commands count up; events in between are passed over."""

    def __init__(self, to_it: int, from_it: int) -> None:
        self._to_it, self._from_it = to_it, from_it
        self._held = b""
        self._num_sent = 0
        self._session: str | None = None
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]

    def look(self, *, width: int, scheme: str) -> None:
        """Of a phone where it is narrow; `scheme` is light or dark."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        colours = {"name": "prefers-color-scheme", "value": scheme}
        self._send("Emulation.setEmulatedMedia", features=[colours])

    def open(self, url: str, ready: str) -> None:
        """Returns once the expression `ready` is true there."""
        self._send("Page.navigate", url=url)
        self.wait(ready)

    def wait(self, ready: str) -> None:
        until_s = time.monotonic() + _ANSWER_S
        while not self.says(f"Boolean({ready})"):
            assert time.monotonic() < until_s, f"never: {ready}"
            time.sleep(0.05)

    def says(self, expression: str) -> Any:
        """Its value in the page."""
        answer = self._send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key of the keyboard, down and up."""
        code, text = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}[key]
        for kind in ("keyDown", "keyUp"):
            self._send(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def screenshot(self) -> Image.Image:
        png = self._send("Page.captureScreenshot", format="png")["data"]
        return Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")

    def _send(self, method: str, **params: Any) -> dict[str, Any]:
        self._num_sent += 1
        message: dict[str, Any] = {"id": self._num_sent, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to_it, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != self._num_sent:
            pass
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            more = os.read(self._from_it, 1 << 20)
            assert more, "the browser ended"
            self._held += more
        first, _, self._held = self._held.partition(b"\0")
        message: dict[str, Any] = json.loads(first)
        return message


@contextmanager
def browsing(program: str, profile: Path) -> Iterator[Browser]:
    """Chromium takes commands on its third file and answers on its fourth."""
    its_in, to_it = os.pipe()
    from_it, its_out = os.pipe()
    command = [
        *("bash", "-c", f'exec "$@" 3<&{its_in} 4>&{its_out}', "bash"),
        *(program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
        *(f"--user-data-dir={profile}", "--hide-scrollbars"),
    ]
    process = subprocess.Popen(
        command, pass_fds=(its_in, its_out), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    os.close(its_in)
    os.close(its_out)
    try:
        yield Browser(to_it, from_it)
    finally:
        os.close(to_it)
        os.close(from_it)
        process.terminate()
        process.wait(30)
