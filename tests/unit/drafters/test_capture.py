"""Served traffic kept for training: bounded, redacted, never in the way."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from drafters.answers import answer_parts, read_answers
from drafters.capture import TrafficCapture
from drafters.redaction import Redactor, found_tokens
from drafters.training.data import read_sequences
from tests.unit.drafters.test_draft_wire import wait_until

OUTPUT = tuple(range(20, 30))


def capture(root: Path, name: str = "replica", **settings: Any) -> TrafficCapture:
    options = {"model_id": "demo", "redact": None, "max_bytes": 1 << 20, **settings}
    return TrafficCapture(root, name, **options)


def test_kept_traffic_is_training_text(tmp_path):
    for name in ("a", "b"):
        kept = capture(tmp_path, name)
        kept.offer((1, 2), OUTPUT)
        kept.close()
    sequences = read_sequences(tmp_path, max_tokens=64)
    assert [(tuple(s.tokens), s.first_output, s.domain) for s in sequences] == 2 * [
        ((1, 2, *OUTPUT), 2, "served")
    ]


def test_a_fraction_is_kept_and_short_outputs_are_not(tmp_path):
    kept = capture(tmp_path, fraction=0.25)
    for _ in range(400):
        kept.offer((1, 2), OUTPUT)
        while not kept._queue.empty():  # keep pace, so that none is dropped
            pass
    kept.offer((1,), OUTPUT[:7])
    kept.close()
    assert kept.counts.offered == 401
    assert 50 < kept.counts.kept < 150
    assert kept.counts.dropped == 0


def test_the_oldest_parts_make_room_over_all_replicas(tmp_path):
    one = capture(tmp_path, "one", rows_per_part=1)
    one.offer((0,), OUTPUT)
    one.close()
    (first,) = answer_parts(tmp_path)
    bound = 3 * first.stat().st_size + 100
    two = capture(tmp_path, "two", rows_per_part=1, max_bytes=bound)
    for i in range(5):
        two.offer((i,), OUTPUT)
    two.close()
    assert not first.exists()
    assert [row["prompt"] for _, row in read_answers(tmp_path)] == [[2], [3], [4]]


class Stuck:
    """A redactor that waits until it is told to go on, as a disk may."""

    def __init__(self) -> None:
        self.is_waiting, self.go_on = threading.Event(), threading.Event()

    def __call__(self, prompt: Any, output: Any) -> Any:
        self.is_waiting.set()
        self.go_on.wait(30)
        return prompt, output


def test_a_slow_disk_drops_offers_and_holds_up_nobody(tmp_path):
    stuck = Stuck()
    kept = capture(tmp_path, redact=stuck)
    kept.offer((1,), OUTPUT)
    stuck.is_waiting.wait(30)
    for _ in range(300):
        kept.offer((1,), OUTPUT)
    assert kept.counts.dropped == 300 - 256
    stuck.go_on.set()
    kept.close()
    assert kept.counts.kept == 257


def test_a_full_disk_costs_what_was_to_be_kept_and_not_the_capture(tmp_path, monkeypatch, caplog):
    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = capture(tmp_path, rows_per_part=2)
    with monkeypatch.context() as disk:
        disk.setattr("drafters.answers.pq.write_table", full)
        for _ in range(3):
            kept.offer((1, 2), OUTPUT)
        wait_until(lambda: kept.counts.kept == 3)
        wait_until(lambda: kept.counts.lost == 2)
    kept.offer((3,), OUTPUT)
    kept.close()
    assert [row["prompt"] for _, row in read_answers(tmp_path)] == [[1, 2], [3]]
    assert (kept.counts.kept, kept.counts.lost) == (4, 2)
    assert "2 captured answers are lost: [Errno 28]" in caplog.text


def test_a_disk_that_takes_no_directory_lets_the_replica_start(tmp_path, caplog):
    (tmp_path / "root").touch()
    kept = capture(tmp_path / "root", rows_per_part=1)
    kept.offer((1, 2), OUTPUT)
    wait_until(lambda: kept.counts.lost == 1)
    (tmp_path / "root").unlink()  # there is room again
    kept.offer((3,), OUTPUT)
    kept.close()
    assert [row["prompt"] for _, row in read_answers(tmp_path)] == [[3]]


def test_what_cannot_be_redacted_is_not_kept_and_ends_nothing(tmp_path, caplog):
    def redact(prompt: Any, output: Any) -> Any:
        if prompt == (1,):
            raise ValueError("no such token")
        return prompt, output

    kept = capture(tmp_path, redact=redact)
    for prompt in ((1,), (2,)):
        kept.offer(prompt, OUTPUT)
    kept.close()
    assert [row["prompt"] for _, row in read_answers(tmp_path)] == [[2]]
    assert "no such token" in caplog.text


def test_a_disk_that_hangs_does_not_hold_up_the_end(tmp_path):
    stuck = Stuck()
    kept = capture(tmp_path, redact=stuck)
    for _ in range(300):
        kept.offer((1,), OUTPUT)
    stuck.is_waiting.wait(30)
    kept.close(timeout_s=0.1)
    assert not stuck.go_on.is_set()
    stuck.go_on.set()


class Words:
    """A vocabulary of words that begin with a space, as byte-level ones have them."""

    def __init__(self) -> None:
        self._words: list[str] = ["X"]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        words = [text] if text == "X" else ["Ġ" + word for word in text.split(" ")]
        self._words += [word for word in words if word not in self._words]
        return [self._words.index(word) for word in words]

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        return [self._words[i] for i in ids]


def test_found_tokens_are_replaced_in_the_prompt_and_end_the_output():
    words = Words()
    prompt = words.encode("write to jane.doe@example.com today about it")
    output = words.encode("call +49 30 1234567 or wait here")
    clean, cut = Redactor(words)(prompt, output)
    assert words.convert_ids_to_tokens(clean) == ["Ġwrite", "Ġto", "X", "Ġtoday", "Ġabout", "Ġit"]
    assert words.convert_ids_to_tokens(cut) == ["Ġcall"]


@pytest.mark.parametrize(
    "secret",
    [
        "jane.doe+x@mail.example.org",
        "https://example.com/a?b=c",
        "192.168.10.254",
        "2001:0db8:85a3:0000:0000:8a2e:0370:7334",
        "(+49) 30 123-4567".replace("(", "").replace(")", ""),
        "4111 1111 1111 1111",
        "sk-abcDEF1234567890abcdef",
        "DE89 3704 0044 0532 0130 00",
    ],
)
def test_what_looks_like_an_address_a_number_or_a_secret_is_found(secret):
    pieces = ["Ask", "Ġfor", "Ġ", *secret, "Ġplease", "."]
    found = found_tokens(pieces)
    assert all(found[3:-2])
    assert not any(found[:2] + found[-2:])


@pytest.mark.parametrize(
    "text",
    ["12 apples and 7 pears", "3.14159", "in 1999", "2 + 2 = 4", "def f(x): return x", "a@b"],
)
def test_usual_text_is_left_alone(text):
    assert not any(found_tokens(list(text)))


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_clock_that_jumps_makes_no_new_part_the_oldest(tmp_path, jump_s):
    """Parts written before the jump are ahead of the clock after it, or far behind it."""
    early = capture(tmp_path, "early", rows_per_part=1)
    for i in range(3):
        early.offer((i,), OUTPUT)
    early.close()
    parts = answer_parts(tmp_path)
    for part in parts:
        then_s = part.stat().st_mtime - jump_s
        os.utime(part, (then_s, then_s))
    bound = 4 * parts[0].stat().st_size + 100
    late = capture(tmp_path, "late", rows_per_part=1, max_bytes=bound)
    for i in range(3, 6):
        late.offer((i,), OUTPUT)
    late.close()
    assert sorted(row["prompt"] for _, row in read_answers(tmp_path)) == [[2], [3], [4], [5]]
