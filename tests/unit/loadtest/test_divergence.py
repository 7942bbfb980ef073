import argparse
import math

import pytest

from loadtest import divergence
from loadtest.commands import register
from loadtest.divergence import Divergence, Trace, compare_traces, format_report

REFERENCE = [Trace((1, 2, 3), (0.5, 0.25, 2.0)), Trace((4, 5), (1.0, 3.0))]


def test_equal_outputs_do_not_part():
    report = compare_traces("x", REFERENCE, [Trace((1, 2, 3)), Trace((4, 5))])
    assert (report.num_prompts, report.num_tokens, report.divergences) == (2, 5, ())
    assert report.widest_margin == 0


def test_the_first_difference_counts_with_its_margin():
    report = compare_traces("x", REFERENCE, [Trace((1, 9, 9)), Trace((4, 5))])
    assert report.divergences == (Divergence(0, 1, 0.25),)
    assert report.num_tokens == 1 + 2


def test_an_output_that_ends_early_parts_there():
    report = compare_traces("x", REFERENCE, [Trace((1, 2)), Trace((4, 5))])
    assert report.divergences == (Divergence(0, 2, 2.0),)


def test_an_output_that_goes_on_where_the_reference_ended_has_no_margin():
    report = compare_traces("x", REFERENCE, [Trace((1, 2, 3)), Trace((4, 5, 6))])
    assert report.divergences == (Divergence(1, 2, math.inf),)


def test_the_report_names_every_divergence():
    report = compare_traces("split at 8", REFERENCE, [Trace((1, 9, 9)), Trace((7, 5))])
    assert format_report([report]).splitlines()[2:] == [
        "| split at 8 | 2 | 2 | 1 | 1.0000 |",
        "split at 8: prompt 0 parts at token 1, margin 0.2500",
        "split at 8: prompt 1 parts at token 0, margin 1.0000",
    ]


@pytest.mark.parametrize(
    ("max_margin", "status"), [((), 0), (("--max-margin", "0.3"), 0), (("--max-margin", "0.2"), 2)]
)
def test_the_command_fails_where_a_model_parts_at_a_wide_margin(monkeypatch, max_margin, status):
    outputs = {"off": REFERENCE, "split": [Trace((1, 9, 9)), Trace((4, 5))]}
    monkeypatch.setattr(divergence, "greedy_traces", lambda url, model, *_, **__: outputs[model])
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers())
    args = parser.parse_args(["divergence", "--reference", "off", "--models", "split", *max_margin])
    assert args.run(args) == status
