"""Why something failed, in one line, out of what Serve keeps of it."""

from __future__ import annotations

_SAYS_NOTHING = "For further information visit"  # pydantic's last line


def reason(message: str) -> str:
    """What a traceback ends with; a sentence where there is no message."""
    lines = [line.strip() for line in message.splitlines()]
    said = [line for line in lines if line and not line.startswith(_SAYS_NOTHING)]
    return said[-1] if said else "Serve does not say why"
