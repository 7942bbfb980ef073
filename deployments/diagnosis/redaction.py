"""Taking out of texts and records what is nobody else's business. Pure.

Redaction is by name (what a field is called), by pattern (what a secret looks like) and by
value (what is known to be secret here). Names of people in free text are found by none of these.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Any

GONE = "[redacted]"
_SECRET_NAME = (
    r"(?:[\w-]*(?:token|secret|passw(?:or)?d|apikey|[_-]key|credential|sha256)s?"
    r"|authorization|cookie|key)"
)
_TEXT_NAME = (
    r"(?:prompt|prompts|messages|content|input|inputs|text|suffix|completion|arguments"
    r"|reasoning(?:_content)?|prompt_token_ids|token_ids|tools)"
)
_IS_SECRET = re.compile(rf"{_SECRET_NAME}$", re.I)
_IS_TEXT = re.compile(rf"{_TEXT_NAME}$", re.I)
_COUNTS = re.compile(r"(?:num_|max_|min_|_tokens$|^tokens$|_token_ids_count$)", re.I)
_SECRETS = re.compile(
    r"""
      -----BEGIN [^-]+----- .*? -----END [^-]+-----            # keys in PEM
    | \b (?: Bearer | Basic ) \s+ [\w.~+/=-]{4,}               # headers
    | \b (?: sk | hf | ghp | gho | glpat | xox[abp] | AKIA ) [-_]? [\w-]{10,}
    | \b eyJ [\w-]{8,} \. [\w-]{8,} \. [\w-]*                   # JSON web tokens
    | (?<= :// ) [^\s/:@]+ : [^\s/@]+ (?= @ )                  # user:password@ of URLs
    """,
    re.VERBOSE | re.DOTALL,
)
# name=value, name: value, "name": "value", 'name': 'value'
_ASSIGNED = re.compile(
    rf"""(["']?\b{_SECRET_NAME}["']?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s,;)}}\]]+)""", re.I
)
_QUOTED = r'"(?:[^"\\]|\\.)*"?|' + r"'(?:[^'\\]|\\.)*'?"
# What requests said, as repr or JSON: to the end of the line, as nesting cannot be told apart.
_SPOKEN = re.compile(rf"""(["']?\b{_TEXT_NAME}["']?\s*[=:]\s*)(?:[\[{{].*|{_QUOTED})""", re.I)
_HOME = re.compile(r"(/home/|/Users/|/root(?=/|\b)|~)([\w.-]*)")
# Digests and keys, but ids of nodes and jobs, too, which have to be told apart.
_HEX = re.compile(r"\b[0-9a-fA-F]{32,}\b")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_URL_HOST = re.compile(r"(?<=://)(?:[\w.+~-]+(?::[^\s/@]*)?@)?([A-Za-z][\w.-]*)")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")
_IPV4 = re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]*\d)")


class Redactor:
    """`known` are values that are secret wherever they stand; `names` of users and hosts."""

    def __init__(self, known: Iterable[str] = (), names: Iterable[str] = ()) -> None:
        self._known = sorted({one for one in known if len(one) >= 4}, key=len, reverse=True)
        words = sorted({one for one in names if len(one) >= 3}, key=len, reverse=True)
        either = "|".join(map(re.escape, words))
        self._names = re.compile(rf"(?<!\w)(?:{either})(?!\w)") if words else None
        self._stand_ins: dict[str, str] = {}

    def text(self, text: str) -> str:
        for one in self._known:
            text = text.replace(one, GONE)
        text = _SECRETS.sub(GONE, text)
        text = _ASSIGNED.sub(_unless_a_count, text)
        text = _SPOKEN.sub(rf"\1{GONE}", text)
        text = _HEX.sub(lambda m: self._stand_in("id", m[0]), text)
        text = _EMAIL.sub(GONE, text)
        text = _HOME.sub(lambda m: f"{m[1]}{'user' if m[2] else ''}", text)
        text = _URL_HOST.sub(lambda m: m[0].replace(m[1], self._host(m[1])), text)
        text = _IPV6.sub(lambda m: self._address(m[0]), text)
        text = _IPV4.sub(lambda m: self._address(m[0]), text)
        if self._names is not None:
            text = self._names.sub(lambda m: self._stand_in("host", m[0]), text)
        return text

    def value(self, value: Any, name: str = "") -> Any:
        """A record as it may be shown: fields whose names say so are gone, texts redacted."""
        if isinstance(value, dict):
            return {self.text(str(key)): self.value(item, str(key)) for key, item in value.items()}
        is_number = isinstance(value, (int, float)) or value is None
        if _IS_SECRET.match(name) and not is_number and not _is_list_of_others(value):
            return GONE
        if _IS_TEXT.match(name) and not is_number:
            return GONE
        if isinstance(value, (list, tuple)):
            return [self.value(item, name if not isinstance(item, dict) else "") for item in value]
        return self.text(value) if isinstance(value, str) else value

    def _host(self, name: str) -> str:
        return name if name == "localhost" else self._stand_in("host", name)

    def _address(self, text: str) -> str:
        """The same stand-in for the same address, so that nodes can be told apart."""
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return text  # a version
        if address.is_loopback or address.is_unspecified:
            return text
        return self._stand_in("host", text)

    def _stand_in(self, kind: str, text: str) -> str:
        return self._stand_ins.setdefault(text, f"{kind}-{len(self._stand_ins) + 1}")


def _unless_a_count(found: re.Match[str]) -> str:
    name = re.sub(r"[\"'\s=:]", "", found[1])
    value = found[2].strip("\"'")
    if _COUNTS.search(name) and re.fullmatch(r"[\d.]+|None|null", value):
        return found[0]
    return f"{found[1]}{GONE}"


def _is_list_of_others(value: Any) -> bool:
    """`keys:` of a Serve file holds records, of which only the digests are secret, and
    `n_tokens` of a table numbers."""
    return isinstance(value, (list, tuple)) and all(
        isinstance(one, (dict, int, float)) for one in value
    )
