"""Sequential temperature scaling: what it recovers, and what it never does."""

from __future__ import annotations

from itertools import compress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_drafts import GAMMA, TRUE, admit_causally, draw

from autoscale.calibration import Calibration, Calibrator, scaled
from autoscale.sts import fit_temperatures
from profiles.calibration_key import CALIBRATION_KEYS
from profiles.reliability import Errors, average, errors_by_position


def errors(confidences, num_admitted, num_accepted, temperatures=None) -> list[Errors]:
    if temperatures is not None:
        confidences = scaled(confidences, 1 / np.array(temperatures))
    return errors_by_position(np.cumprod(confidences, axis=1), num_admitted, num_accepted)


def test_known_temperatures_are_recovered_within_2_percent():
    drafts = draw(np.random.default_rng(0), 500_000)
    fitted = fit_temperatures(drafts.confidences, drafts.all_admitted, drafts.would_accept)
    assert fitted == pytest.approx(TRUE, rel=0.02)


def test_confidences_that_are_right_are_left_nearly_alone():
    drafts = draw(np.random.default_rng(1), 100_000, [1.0] * 4)
    fitted = fit_temperatures(drafts.confidences, drafts.all_admitted, drafts.would_accept)
    assert fitted == pytest.approx([1.0] * 4, rel=0.03)


def test_held_out_survival_is_calibrated_to_1_percent():
    fitted = draw(np.random.default_rng(2), 50_000)
    held_out = draw(np.random.default_rng(3), 50_000)
    temperatures = fit_temperatures(fitted.confidences, fitted.all_admitted, fitted.would_accept)
    of_held_out = held_out.confidences, held_out.all_admitted, held_out.would_accept
    before, after = errors(*of_held_out), errors(*of_held_out, temperatures)
    assert average(before).ece > 0.03
    assert max(position.ece for position in after) < 0.01
    assert average(after).brier < average(before).brier


def censored(seed: int, num_drafts: int, betrayal: float = 0.0):
    rng = np.random.default_rng(seed)
    drafts = draw(rng, num_drafts, betrayal=betrayal)
    num_admitted = admit_causally(drafts.confidences, rng)
    return drafts, num_admitted, np.minimum(drafts.would_accept, num_admitted)


def test_labels_censored_by_the_scheduler_leave_it_unbiased():
    drafts, num_admitted, num_accepted = censored(0, 500_000)
    assert np.mean(num_admitted == GAMMA) < 0.5  # the scheduler did cut
    fitted = fit_temperatures(drafts.confidences, num_admitted, num_accepted)
    assert fitted == pytest.approx(TRUE, rel=0.02)


def test_known_rejections_beyond_the_admitted_length_would_bias_it():
    """What the label rule keeps out: of drafts cut short, the rejected ones alone."""
    drafts, num_admitted, num_accepted = censored(0, 100_000)
    known_to = np.where(num_accepted < num_admitted, GAMMA, num_admitted)
    biased = fit_temperatures(drafts.confidences, known_to, num_accepted)
    assert (biased[3:] / TRUE[3:] > 1.1).all()


def test_censored_labels_do_for_drafts_that_are_not_censored():
    """Even where later confidences betray earlier rejections, as real drafters' may."""
    drafts, num_admitted, num_accepted = censored(1, 100_000, betrayal=0.5)
    fitted = fit_temperatures(drafts.confidences, num_admitted, num_accepted)
    after = errors(drafts.confidences, drafts.all_admitted, drafts.would_accept, fitted)
    assert max(position.ece for position in after) < 0.02


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    num_drafts=st.integers(1, 1500),
    mean=st.floats(-1, 3),
    temperatures=st.lists(st.floats(0.2, 5), min_size=1, max_size=4),
    betrayal=st.floats(-2, 2),
    shift=st.floats(-2, 2),
    serving=st.none() | st.lists(st.floats(0.2, 5), min_size=4, max_size=4),
)
def test_the_average_ece_is_never_larger_on_the_fitting_set(
    seed, num_drafts, mean, temperatures, betrayal, shift, serving
):
    """Over all positions with a label, against what serves, whatever the data: also where no
    temperature can mend it (a shift of the logits)."""
    rng = np.random.default_rng(seed)
    drafts = draw(rng, num_drafts, temperatures, mean=mean, betrayal=betrayal)
    odds = drafts.confidences / (1 - drafts.confidences) * np.exp(shift)
    confidences = odds / (1 + odds)
    num_admitted = rng.integers(0, len(temperatures) + 1, size=num_drafts)
    num_accepted = np.minimum(drafts.would_accept, num_admitted)
    otherwise = serving and serving[: len(temperatures)]
    fitted = fit_temperatures(confidences, num_admitted, num_accepted, otherwise)
    before = errors(confidences, num_admitted, num_accepted, otherwise)
    after = errors(confidences, num_admitted, num_accepted, fitted)
    labelled = [one.num_labels > 0 for one in before]
    served, calibrated = (sum(e.ece for e in compress(some, labelled)) for some in (before, after))
    assert calibrated <= served + 1e-9


def test_what_serves_is_kept_where_positions_with_few_labels_would_lose_more_than_others_gain():
    """The first position is off by 0.05; behind it stand three of 99 labels each, all of which
    survived: a lower first confidence, right for the rest, costs each of them as much."""
    confidences = np.tile([0.8, 0.999, 0.999, 0.999], (1000, 1))
    num_admitted = np.where(np.arange(1000) < 99, 4, 1)
    num_accepted = np.where(np.arange(1000) < 750, num_admitted, 0)
    outcomes = confidences, num_admitted, num_accepted
    alone = fit_temperatures(confidences[:, :1], np.ones(1000), num_accepted > 0)
    assert alone == pytest.approx([1.26], rel=0.01)  # logits of 0.8 and 0.75
    for serving in ((1.0, 1.0, 1.0, 1.0), (1.0, 0.7, 1.2, 1.4)):
        assert tuple(fit_temperatures(*outcomes, otherwise=serving)) == serving
    assert fit_temperatures(*outcomes).tolist() == [1.0] * 4


def test_a_position_that_cannot_gain_does_not_cost_the_others_theirs():
    """Here the second one's confidence is right as it is, and so is the product of two wrong
    ones: what mends the first position is worth more than it costs there."""
    rng = np.random.default_rng(5)
    first = rng.uniform(0.05, 0.95, 20_000)
    odds = (first / (1 - first)) ** 0.5
    survives = rng.random(len(first)) < odds / (1 + odds)
    second = np.full(len(first), 0.3)
    accepted = survives * (1 + (rng.random(len(first)) < 0.3 * first / (odds / (1 + odds))))
    confidences, admitted = np.stack((first, second), axis=1), np.full(len(first), 2)
    fitted = fit_temperatures(confidences, admitted, accepted)
    before = errors(confidences, admitted, accepted)
    after = errors(confidences, admitted, accepted, fitted)
    assert fitted[0] == pytest.approx(2.0, rel=0.05)
    assert after[1].ece > before[1].ece
    assert after[0].ece < before[0].ece / 5


def test_a_position_hardly_ever_admitted_keeps_what_it_had():
    drafts = draw(np.random.default_rng(4), 1000, TRUE[:3])
    num_admitted = np.full(1000, 2)
    num_admitted[:99] = 3
    num_accepted = np.minimum(drafts.would_accept, num_admitted)
    outcomes = drafts.confidences, num_admitted, num_accepted
    assert fit_temperatures(*outcomes)[2] == 1.0
    assert fit_temperatures(*outcomes, otherwise=(1.0, 1.0, 1.7))[2] == 1.7


@pytest.mark.parametrize("temperature", [0.2, 0.7, 1.0, 1.3, 5.0])
def test_the_order_within_a_position_stays(temperature):
    confidences = np.sort(np.random.default_rng(5).random(100_000))
    calibrated = scaled(confidences, np.array(1 / temperature))
    assert (np.diff(calibrated) >= 0).all()
    assert (np.diff(calibrated[:: len(confidences) // 100]) > 0).all()


def test_a_temperature_divides_the_logit():
    logits = np.array([-3.0, -0.5, 0.0, 2.0])
    confidences = 1 / (1 + np.exp(-logits))
    halved = scaled(confidences, np.array(1 / 2.0))
    assert halved == pytest.approx(1 / (1 + np.exp(-logits / 2)))
    assert scaled(np.array([0.0, 1.0]), np.array(0.5)) == pytest.approx([0.0, 1.0], abs=1e-6)


def test_every_row_of_a_batch_has_the_temperatures_of_its_key():
    greedy, sampled, unknown = CALIBRATION_KEYS[0], CALIBRATION_KEYS[12], 3
    calibrator = Calibrator(2, {greedy: Calibration((2.0, 1.0)), sampled: Calibration((1.0, 0.5))})
    confidences = np.full((3, 2), 0.8)
    calibrated = calibrator.apply(confidences, np.array([12, unknown, 0]))
    assert calibrated == pytest.approx(
        np.array([[0.8, 16 / 17], [0.8, 0.8], [2 / 3, 0.8]])  # odds 4: 16, as they are, 2
    )


def test_the_identity_returns_what_it_was_given():
    confidences = np.array([[0.3, 0.9]], dtype=np.float64)
    keys = np.zeros(1, dtype=np.int64)
    assert Calibrator(2).apply(confidences, keys) is confidences
    ones = {CALIBRATION_KEYS[0]: Calibration.identity(2)}
    assert Calibrator(2, ones).apply(confidences, keys) is confidences


def test_a_calibration_of_another_block_size_is_refused():
    with pytest.raises(ValueError, match=r"greedy/0 has 3 temperatures.*block size is 7"):
        Calibrator(7, {CALIBRATION_KEYS[0]: Calibration((1.0, 1.0, 1.0))})
