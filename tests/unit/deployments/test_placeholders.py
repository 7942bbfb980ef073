from dataclasses import dataclass, field

import numpy as np

from deployments.engine.placeholders import strip_bitmask, strip_placeholders


@dataclass
class SchedulerOutput:
    num_scheduled_tokens: dict[str, int]
    total_num_scheduled_tokens: int
    scheduled_spec_decode_tokens: dict[str, list[int]]
    finished_req_ids: set[str] = field(default_factory=set)


@dataclass
class GrammarOutput:
    structured_output_request_ids: list[str]
    grammar_bitmask: np.ndarray


def test_nothing_padded_is_left_alone():
    output = SchedulerOutput({"a": 4}, 4, {"a": [5, 6, 7]})
    assert strip_placeholders(output) is output


def test_padding_leaves_one_token_and_the_original_is_unchanged():
    output = SchedulerOutput({"a": 4, "new": 4}, 8, {"a": [5, 6, 7], "new": [-1, -1, -1]})
    stripped = strip_placeholders(output)
    assert stripped.num_scheduled_tokens == {"a": 4, "new": 1}
    assert stripped.total_num_scheduled_tokens == 5
    assert stripped.scheduled_spec_decode_tokens == {"a": [5, 6, 7]}
    assert output == SchedulerOutput({"a": 4, "new": 4}, 8, {"a": [5, 6, 7], "new": [-1] * 3})


def test_the_grammars_rows_for_padding_go_too():
    drafts = {"b": [-1, -1], "c": [4, 5]}
    output = GrammarOutput(["a", "b", "c"], np.arange(7)[:, None])  # 1 + (1 + 2) + (1 + 2) rows
    assert strip_bitmask(output, drafts).grammar_bitmask.ravel().tolist() == [0, 1, 4, 5, 6]
