"""Commands that stand in Markdown: code blocks and code spans, as a shell would split them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FENCE = re.compile(r"^ *(`{3,}).*?\n(.*?)^ *\1 *$", re.M | re.S)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)(?: {4}.*\n|[ \t]*\n(?= {4}))+")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_BETWEEN = frozenset((";", "&", "&&", "|", "||", "(", ")"))
PROGRAMS = ("dspark", "make", "ray", "serve", "kubectl", "docker")


@dataclass(frozen=True)
class Command:
    """`words` without the program, redirections and what stood before it."""

    where: str
    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.where}: {self.program} {' '.join(self.words)}"


def commands(name: str, text: str) -> Iterator[Command]:
    """Every command of `PROGRAMS` in a document, with the lines of its blocks joined."""
    blocks = [found[2] for found in _FENCE.finditer(text)]
    prose = _FENCE.sub("\n", text)
    blocks += [re.sub(r"^ {4}", "", found[0], flags=re.M) for found in _INDENTED.finditer(prose)]
    spans = [" ".join(found[1].split()) for found in _SPAN.finditer(_INDENTED.sub("\n", prose))]
    for block in blocks:
        for line in _lines(block):
            yield from _of_line(name, line)
    for span in spans:
        if span.split()[0] in PROGRAMS:
            yield from _of_line(name, span)


def _lines(block: str) -> Iterator[str]:
    """Lines as the shell sees them: joined at backslashes and within quotes."""
    held = ""
    for line in block.splitlines():
        held += _COMMENT.sub("", line) if "'" not in held else line
        if held.endswith("\\"):
            held = held[:-1] + " "
        elif _is_whole(held):
            yield held
            held = ""
        else:
            held += "\n"
    if held.strip():
        yield held


def _is_whole(line: str) -> bool:
    try:
        shlex.split(line)
    except ValueError:
        return False
    return True


def _of_line(name: str, line: str) -> Iterator[Command]:
    if not any(program in line for program in PROGRAMS):
        return
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split, lexer.commenters = True, ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if word not in _BETWEEN:
            words.append(word)
            continue
        yield from _of_words(name, words)
        words = []


def _of_words(name: str, words: list[str]) -> Iterator[Command]:
    """One simple command: behind assignments, or `ssh HOST`; or quoted within another's words."""
    while words and re.match(r"[A-Za-z_]+=", words[0]):
        words = words[1:]
    if words and words[0] == "ssh":
        words = next((words[i:] for i, w in enumerate(words) if w in PROGRAMS), words)
    if words and words[0].removeprefix(".venv/bin/") in PROGRAMS:
        end = next((i for i, word in enumerate(words) if word in (">", ">>", "<")), len(words))
        yield Command(name, Path(words[0]).name, tuple(words[1:end]))
    for word in words[1:]:
        if " " in word:
            yield from _of_line(name, word)
