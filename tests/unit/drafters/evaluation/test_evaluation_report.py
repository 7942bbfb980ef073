"""Reports of drafts that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from drafters.evaluation.report import format_report
from drafters.evaluation.splits import (
    MACRO_AVERAGE,
    acceptances,
    by_benchmark,
    by_context,
    by_mode,
    by_turn,
    with_macro_average,
)
from profiles.evaluation import DraftPlaces, EvaluatedDrafts
from profiles.outcomes import Outcomes

#          benchmark, prompt, temperature, thinking, turn, context, accepted
DRAFTS = [
    ("gsm8k", "g1", 0.0, "off", 1, 100, 2),
    ("gsm8k", "g1", 0.0, "off", 1, 255, 0),
    ("gsm8k", "g2", 0.0, "off", 1, 256, 1),
    ("mbpp", "m1", 0.0, "off", 1, 40_000, 0),
    ("mbpp", "m1", 0.0, "off", 2, 40_000, 1),
    ("mbpp", "m1", 1.0, "on", 1, 1024, 2),
]


def evaluated(rows=DRAFTS) -> EvaluatedDrafts:
    benchmark, prompt, temperature, thinking, turn, context, accepted = zip(*rows, strict=True)
    n = len(rows)
    outcomes = Outcomes(
        prompt_ids=prompt,
        domains=("any",) * n,
        verification_modes=tuple("q" if t else "greedy" for t in temperature),
        sampling_temperatures=np.array(temperature),
        confidences=np.full((n, 2), 0.5),
        num_admitted=np.full(n, 2),
        num_accepted=np.array(accepted),
    )
    places = DraftPlaces(*map(np.array, (benchmark, thinking, turn, context)))
    return EvaluatedDrafts(outcomes, places)


def lengths(parts) -> dict[str, float]:
    return {name: cell.length for name, cell in acceptances(parts).items()}


def test_the_parts_of_an_evaluation():
    modes = by_mode(evaluated())
    assert lengths(modes) == {
        "greedy, thinking off": pytest.approx(1.8),
        "temperature 1, thinking on": 3.0,
    }
    greedy = modes["greedy, thinking off"]
    assert lengths(by_benchmark(greedy)) == {"gsm8k": 2.0, "mbpp": 1.5}
    assert lengths(by_context(greedy)) == {"0-256": 2.0, "256-512": 2.0, "32K-": 1.5}
    assert lengths(by_turn(greedy)) == {"first turn": 1.75, "later turns": 2.0}


def test_every_benchmark_has_the_same_weight_in_the_macro_average():
    greedy = by_mode(evaluated())["greedy, thinking off"]
    cells = with_macro_average(acceptances(by_benchmark(greedy)))
    assert cells[MACRO_AVERAGE].length == 1.75
    assert cells[MACRO_AVERAGE].num_prompts == 3
    one = acceptances(by_benchmark(by_mode(evaluated())["temperature 1, thinking on"]))
    assert with_macro_average(one) == one


def test_the_tables_of_a_report():
    metadata = {"drafter_id": "small", "model_id": "tiny", "seed": "4"}
    lines = format_report(evaluated(), metadata, 12.4).splitlines()
    assert lines[0] == "# small for tiny"
    assert "6 drafts of 2 tokens, all of them verified, in 12 s." in lines[2]
    for line in (
        "| seed | 4 |",
        "|  | prompts | greedy, thinking off | temperature 1, thinking on |",
        "| gsm8k | 2 | 2.00 ± 0.00 |  |",
        "| mbpp | 1 | 1.50 | 3.00 |",
        "| greedy, thinking off | 1 | 2 |",
        "| gsm8k | 0.667 | 0.500 |",
        "| later turns | 1 | 2.00 |  |",
        "| 1 | 5 | 10.00 | 0.500 | 0.2500 |",
    ):
        assert line in lines


def test_pictures_are_written(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from drafters.evaluation.plots import save_plots

    for path in save_plots(evaluated(), tmp_path):
        assert path.read_bytes().startswith(b"\x89PNG")
