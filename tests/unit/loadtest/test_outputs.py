import json
import re

import pytest

from loadtest import outputs
from loadtest.arms import LLAMA_CPP, OPENAI, Arm
from loadtest.divergence import Trace
from loadtest.outputs import Outputs, divergences
from loadtest.report.page import write_page
from loadtest.servers import Server
from tests.unit.loadtest.test_bench_report import SLO, records

OFF = Server("off", "http://off", (Arm("off"),), api_key="k")
DRAFTED = Server("drafted", "http://drafted", (Arm("drafted"),))
SAID = {"off": (1, 2, 3), "drafted": (1, 2, 9)}


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """Requests instead of servers: (model, prompts, concurrency, with margins)."""
    seen = []

    def answer(url, model, prompts, *, max_tokens, concurrency, with_margins, headers):
        assert url == f"http://{model}"
        assert headers == ({"Authorization": "Bearer k"} if model == "off" else {})
        seen.append((model, len(prompts), concurrency, with_margins))
        margins = (0.5, 0.25, 2.0) if with_margins else ()
        return [Trace(SAID[model], margins)] * len(prompts)

    monkeypatch.setattr(outputs, "greedy_traces", answer)
    return seen


def outputs_in(directory, num_prompts: int = 4) -> Outputs:
    return Outputs(directory, "off", num_prompts, max_tokens=3)


def test_the_first_arm_is_asked_twice_and_with_margins_once(tmp_path, asked):
    ours = outputs_in(tmp_path)
    ours.ask(OFF)
    ours.ask(DRAFTED)
    assert asked == [("off", 4, 8, True), ("off", 4, 3, False), ("drafted", 4, 8, False)]
    control, drafted = divergences(tmp_path)
    assert (control.arm, control.num_prompts, control.divergences) == ("off at 3 (control)", 4, ())
    assert (drafted.arm, len(drafted.divergences), drafted.widest_margin) == ("drafted", 4, 2.0)


def test_an_arm_is_asked_once_and_a_later_sitting_goes_on(tmp_path, asked):
    outputs_in(tmp_path).ask(DRAFTED)
    assert divergences(tmp_path) == []  # nothing to compare with yet
    again = outputs_in(tmp_path)
    assert again.lacks(OFF.arms)
    assert not again.lacks(DRAFTED.arms)
    again.ask(DRAFTED)
    again.ask(OFF)
    assert [model for model, *_ in asked] == ["drafted", "off", "off"]
    assert [report.arm for report in divergences(tmp_path)] == ["off at 3 (control)", "drafted"]


def test_another_number_of_prompts_begins_anew(tmp_path, asked):
    outputs_in(tmp_path).ask(DRAFTED)
    assert outputs_in(tmp_path, 5).lacks(DRAFTED.arms)


@pytest.mark.parametrize("dialect", [LLAMA_CPP, OPENAI])
def test_servers_that_give_no_token_ids_are_not_asked(tmp_path, asked, dialect):
    arms = (Arm("drafted", dialect=dialect),)
    assert not outputs_in(tmp_path).lacks(arms)
    outputs_in(tmp_path).ask(Server("other", "http://drafted", arms))
    assert asked == []
    assert not outputs_in(tmp_path, 0).lacks(OFF.arms)  # nobody wants any
    assert not (tmp_path / "outputs.json").exists()


def test_the_page_says_where_outputs_part(tmp_path, asked):
    ours = outputs_in(tmp_path)
    ours.ask(OFF)
    ours.ask(DRAFTED)
    text = write_page(tmp_path, records(), SLO, divergences=divergences(tmp_path)).read_text()
    row = r'<th scope="row">drafted</th><td>4</td><td>4</td><td>8</td><td>2\.0000</td>'
    assert re.search(row, text)
    assert "Greedy outputs" not in write_page(tmp_path, records(), SLO).read_text()
    assert json.loads((tmp_path / "outputs.json").read_text())["num_prompts"] == 4
