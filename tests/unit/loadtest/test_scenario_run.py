from __future__ import annotations

import json

from loadtest.open_loop import Outcome
from loadtest.phases import Request
from loadtest.scenario_run import write_outcomes


def test_every_outcome_is_a_line_without_its_prompt(tmp_path):
    answered = Outcome(Request(1.0, "tell", 8, "batch"), 200, 1.1, 2.5, 1.4, output_tokens=5)
    refused = Outcome(Request(2.0, "more", 8), 429, 2.0, 2.1, retry_after_s=3.0)
    write_outcomes([answered, refused], tmp_path / "outcomes.jsonl")
    first, second = map(json.loads, (tmp_path / "outcomes.jsonl").read_text().splitlines())
    assert first["request"] == {"at_s": 1.0, "max_tokens": 8, "service_class": "batch"}
    assert (first["sent_s"], first["first_token_s"], first["ended_s"]) == (1.1, 1.4, 2.5)
    assert (second["status"], second["retry_after_s"]) == (429, 3.0)
    assert "tell" not in (tmp_path / "outcomes.jsonl").read_text()
