"""Request bodies that can be sent to a target and answered by it.

Fields typed `Iterable[...]` in OpenAI's messages are validated as they are read. Ray's ingress
reads the two it knows of; any other is a 500 when the request is pickled. Of vLLM's message
types harmony's has an author in place of a role, with which the renderer of any other model fails.
Embeddings as raw bytes are vLLM's own; Ray's engine reads its answer as JSON.
"""

from __future__ import annotations

from typing import Any

EMBEDDINGS_AS = ("float", "base64")


def read_out(body: Any) -> Any:
    """`body` with every such iterator of its messages read into a list.

    Raises ValueError (pydantic's) for items that are not what they should be, for a message
    without a role, and for embeddings asked for as raw bytes.
    """
    encoding = getattr(body, "encoding_format", None)
    if encoding not in (None, *EMBEDDINGS_AS):
        raise ValueError(f"encoding_format {encoding!r} is not served; ask for float or base64")
    messages = getattr(body, "messages", None)
    if messages is None:
        return body
    messages = _plain(messages)
    for i, message in enumerate(messages):
        if not isinstance(message, dict) or "role" not in message:
            raise ValueError(f"messages[{i}] has no role; give it one, as user or assistant")
    return body.model_copy(update={"messages": messages})


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list) or type(value).__name__ == "ValidatorIterator":
        return [_plain(item) for item in value]
    return value
