"""`dspark calibrate`: from outcomes on disk to a profile, judged on held-out prompts."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import date

import numpy as np
import pytest
from synthetic_drafts import GAMMA, TRUE, draw

from autoscale.calibrate import calibration_table, fit_profile, held_out_prompts
from autoscale.commands import register
from profiles.calibration import load_calibration
from profiles.calibration_key import CalibrationKey
from profiles.outcomes import Outcomes, save_outcomes
from profiles.provenance import DraftingPair

PAIR = DraftingPair("demo", "a1", "demo-drafter", "b2")
GREEDY, SAMPLED = CalibrationKey("greedy", "0"), CalibrationKey("q", "0.4-0.8")
SHARP = tuple(t / 2 for t in TRUE)


def outcomes(drafts_of_a_prompt: int = 20, num_prompts: int = 1000) -> Outcomes:
    """Greedy drafts have the temperatures TRUE, sampled ones SHARP."""
    n = drafts_of_a_prompt * num_prompts
    greedy, sampled = (
        draw(np.random.default_rng(seed), n, temperatures)
        for seed, temperatures in enumerate((TRUE, SHARP))
    )
    prompts = tuple(f"prompt-{i // drafts_of_a_prompt}" for i in range(n))
    return Outcomes(
        prompt_ids=prompts * 2,
        domains=("math",) * 2 * n,
        verification_modes=("greedy",) * n + ("q",) * n,
        sampling_temperatures=np.repeat([0.0, 0.7], n),
        confidences=np.concatenate((greedy.confidences, sampled.confidences)),
        num_admitted=np.full(2 * n, GAMMA),
        num_accepted=np.concatenate((greedy.would_accept, sampled.would_accept)),
    )


@pytest.fixture(scope="module")
def profile():
    return fit_profile(outcomes(), PAIR, held_out=0.3, measured_on=date(2026, 7, 1))


def test_every_key_gets_its_own_temperatures(profile):
    assert set(profile.entries) == {GREEDY, SAMPLED}
    assert profile.temperatures(GREEDY) == pytest.approx(TRUE, rel=0.15)
    assert profile.temperatures(SAMPLED) == pytest.approx(SHARP, rel=0.15)


def test_held_out_prompts_judge(profile):
    for positions in profile.entries.values():
        for position in positions:
            assert position.num_labels + position.after.num_labels == 20_000
            assert position.after.num_labels == pytest.approx(6000, abs=1000)
            assert position.after.ece < 0.025
        assert np.mean([p.before.ece for p in positions]) > 0.03


def test_a_prompt_is_held_out_with_all_its_drafts_whatever_else_there_is():
    ids = ["a", "b", "c", "d", "e", "f"] * 2
    held_out = held_out_prompts(ids, 0.5).tolist()
    assert held_out[:6] == held_out[6:]
    assert held_out_prompts(ids[::-1], 0.5).tolist() == held_out[::-1]
    assert 0 < sum(held_out[:6]) < 6
    assert held_out_prompts([str(i) for i in range(5000)], 0.3).mean() == pytest.approx(
        0.3, abs=0.02
    )
    assert not held_out_prompts(ids, 0.0).any()


def test_the_table_has_a_row_per_position_and_their_mean(profile):
    lines = calibration_table(profile).splitlines()
    assert lines[0] == "greedy, sampling temperature 0"
    rows = [line for line in lines if line.startswith("| ") and " -> " in line]
    assert len(rows) == 2 * (GAMMA + 1)
    first = profile.entries[GREEDY][0]
    assert rows[0] == (
        f"| 1 | {first.sts_temperature:.3f} | {first.num_labels} | {first.after.num_labels} | "
        f"{100 * first.before.ece:.2f} -> {100 * first.after.ece:.2f} | "
        f"{100 * first.after.noise:.2f} | "
        f"{first.before.auc:.3f} -> {first.after.auc:.3f} | "
        f"{first.before.brier:.4f} -> {first.after.brier:.4f} |"
    )
    columns = {line.count("|") for line in lines if line.startswith("|")}
    assert columns == {9}


def test_the_first_position_keeps_its_auc(profile):
    """A temperature keeps the order, so it cannot discriminate better or worse."""
    for first, *_ in profile.entries.values():
        assert first.after.auc == pytest.approx(first.before.auc, abs=1e-9)


def run(*args: object) -> int:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    parsed = parser.parse_args(["calibrate", *map(str, args)])
    return int(parsed.run(parsed))


@pytest.fixture
def paths(tmp_path):
    save_outcomes(tmp_path / "outcomes.parquet", outcomes(num_prompts=60), PAIR)
    return tmp_path / "outcomes.parquet", tmp_path / "profiles" / "calibration.parquet"


def test_the_command_prints_the_table_and_writes_the_profile(paths, capsys):
    source, output = paths
    assert run(source, "--output", output) == 0
    profile = load_calibration(output, PAIR)
    assert profile.version == 1
    assert capsys.readouterr().out == f"{calibration_table(profile)}\nversion 1 of {output}\n"


def test_a_profile_that_is_replaced_gets_the_next_version(paths):
    source, output = paths
    assert [run(source, "--output", output) for _ in range(3)] == [0, 0, 0]
    assert load_calibration(output).version == 3


def test_a_profile_of_another_drafter_is_not_replaced_unless_overridden(paths, capsys):
    source, output = paths
    run(source, "--output", output)
    retrained = replace(PAIR, drafter_version="b3")
    save_outcomes(source, outcomes(num_prompts=60), retrained)
    assert run(source, "--output", output) == 2
    assert "drafter_version is 'b2' there and 'b3' here" in capsys.readouterr().err
    assert load_calibration(output).pair == PAIR
    assert run(source, "--output", output, "--override", "drafter_version") == 0
    assert load_calibration(output).pair == retrained


def test_a_missing_or_wrong_file_is_named(paths, tmp_path, capsys):
    source, output = paths
    assert run(tmp_path / "none.parquet", "--output", output) == 2
    assert "none.parquet: there is no such file" in capsys.readouterr().err
    source.write_text("not Parquet")
    assert run(source, "--output", output) == 2
    assert "outcomes.parquet cannot be read as Parquet" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("share", "message"),
    [(1.0, "none of 60 prompts is left to fit on"), (1.5, "is not a share of the prompts, 0 to 1")],
)
def test_holding_everything_out_is_refused(paths, capsys, share, message):
    source, output = paths
    assert run(source, "--output", output, "--held-out", share) == 2
    assert message in capsys.readouterr().err
