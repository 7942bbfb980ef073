"""Answers on disk: parts, what an interruption leaves, damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from drafters.answers import (
    Answer,
    AnswerWriter,
    answer_parts,
    answered,
    copy_answers,
    made_by,
    read_answers,
)
from drafters.training.data import read_sequences


def answer(i: int) -> Answer:
    return Answer(f"math:{i}:0", "math", "gsm8k", (1, 2, i), (3, 4, 5))


def write(directory: Path, numbers: range, **settings) -> AnswerWriter:
    writer = AnswerWriter(directory, **settings)
    for i in numbers:
        writer.add(answer(i))
    return writer


def test_answers_are_read_as_they_came(tmp_path):
    write(tmp_path, range(5), rows_per_part=2).flush()
    assert len(answer_parts(tmp_path)) == 3
    rows = [row for _, row in read_answers(tmp_path)]
    assert [row["prompt"] for row in rows] == [[1, 2, i] for i in range(5)]
    assert rows[0]["output"] == [3, 4, 5]


def test_a_later_writer_knows_and_keeps_what_is_there(tmp_path):
    write(tmp_path, range(3)).flush()
    second = write(tmp_path, range(3, 4))
    assert answered(tmp_path) == {"math:0:0", "math:1:0", "math:2:0"}
    second.flush()
    assert [row["id"] for _, row in read_answers(tmp_path)] == [f"math:{i}:0" for i in range(4)]


def test_a_process_that_dies_loses_less_than_a_part(tmp_path):
    write(tmp_path, range(5), rows_per_part=2)
    assert answered(tmp_path) == {f"math:{i}:0" for i in range(4)}


def test_answers_are_not_kept_back_for_long(tmp_path):
    write(tmp_path, range(3), max_age_s=0)
    assert len(answered(tmp_path)) == 3


def test_a_part_half_written_is_no_part(tmp_path):
    write(tmp_path, range(2)).flush()
    (tmp_path / "part-000001.unfinished").write_bytes(b"PAR1")
    assert len(answered(tmp_path)) == 2


def test_a_copy_stays_when_its_directory_changes(tmp_path):
    live, copy = tmp_path / "live", tmp_path / "run" / "answers"
    for replica, numbers in (("a", range(3)), ("b", range(3, 5))):  # as captured traffic is
        write(live / replica, numbers, rows_per_part=2).flush()
    copy_answers(live, copy)
    for part in answer_parts(live)[:2]:
        part.unlink()
    write(live / "c", range(5, 9)).flush()
    copy_answers(live, copy)
    assert answered(copy) == {f"math:{i}:0" for i in range(5)}


def test_a_part_that_vanishes_before_it_is_copied_is_left_out(tmp_path, monkeypatch):
    write(tmp_path / "live", range(4), rows_per_part=2).flush()
    parts = answer_parts(tmp_path / "live")
    parts[0].unlink()
    monkeypatch.setattr("drafters.answers.answer_parts", lambda directory: parts)
    copy_answers(tmp_path / "live", tmp_path / "copy")
    monkeypatch.undo()
    assert answered(tmp_path / "copy") == {"math:2:0", "math:3:0"}


def test_there_has_to_be_something_to_copy(tmp_path):
    with pytest.raises(ValueError, match="to copy"):
        copy_answers(tmp_path, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_training_reads_them(tmp_path):
    write(tmp_path, range(3), rows_per_part=2).flush()
    sequences = read_sequences(tmp_path, max_tokens=5)
    assert [tuple(s.tokens) for s in sequences] == [(1, 2, i, 3, 4) for i in range(3)]
    assert [(s.row, s.first_output, s.domain) for s in sequences][2] == (2, 3, "math")


@pytest.mark.parametrize("damage", ["cut", "flip", "empty"])
def test_a_damaged_part_is_named(damage, tmp_path):
    write(tmp_path, range(300)).flush()
    part = answer_parts(tmp_path)[0]
    content = bytearray(part.read_bytes())
    content[100] ^= 255
    part.write_bytes({"cut": content[:-9], "flip": content, "empty": b""}[damage])
    with pytest.raises(ValueError, match=r"part-000000.parquet: cannot be read .* remove it"):
        list(read_answers(tmp_path))


def test_answers_that_were_made_otherwise_do_not_mix(tmp_path):
    write(tmp_path, range(2), made_by={"target": "a1", "temperatures": "0, 1"}).flush()
    (part,) = answer_parts(tmp_path)
    assert made_by(part) == {"target": "a1", "temperatures": "0, 1"}
    write(tmp_path, range(2, 4), made_by={"target": "a1", "temperatures": "0, 1"}).flush()
    with pytest.raises(ValueError, match="target 'a1' there, 'b2' now"):
        AnswerWriter(tmp_path, made_by={"target": "b2", "temperatures": "0, 1"})
    assert len(answered(tmp_path)) == 4


def test_a_directory_without_parts_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no part-"):
        list(read_answers(tmp_path))
