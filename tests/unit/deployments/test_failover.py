import asyncio
import json
from dataclasses import asdict, dataclass, field, replace
from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.exceptions import BackPressureError

from deployments import failover
from deployments.continuation import DONE, CannotContinueError, Delivered
from deployments.errors import EngineLostError
from deployments.failover import MAX_TARGETS, FailoverCounts, NoTargetError, answered, streamed
from deployments.refusal import RefusedByAllError, TryLater
from deployments.resumption import RESUME, Resumption, SaidChoice


@dataclass(frozen=True)
class Body:
    """What the ingress reads of a request."""

    n: int | None = 1
    stream: bool = True
    return_token_ids: bool = False
    include_reasoning: bool = True
    echo: bool = False
    use_beam_search: bool = False
    thinking_token_budget: int | None = None
    prompt: str | list[str] | None = None
    stream_options: SimpleNamespace | None = None
    vllm_xargs: dict | None = field(default=None)

    def model_copy(self, update):
        return replace(self, **update)


def event(**chunk):
    return "data: " + json.dumps({"id": "a", "created": 1} | chunk) + "\n\n"


def role(**chunk):
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}}
    return event(choices=[choice], **({"prompt_token_ids": [9, 8]} | chunk))


def said(text, *tokens, reason=None, index=0):
    choice = {"index": index, "delta": {"content": text}, "token_ids": list(tokens)}
    return event(choices=[choice | {"finish_reason": reason}])


class Targets:
    """One list of events per target; an exception in it is raised."""

    def __init__(self, *events):
        self._events = list(events)
        self.asked = []

    async def __call__(self, body):
        self.asked.append(body)
        for item in self._events.pop(0):
            if isinstance(item, Exception):
                raise item
            yield [item] if isinstance(item, str) else item


def collect(outlive, targets, body=None):
    counts, events = FailoverCounts(), []

    async def run():
        asked = Delivered(body or Body()) if outlive is streamed else body or Body()
        events.extend([item async for item in outlive(targets, asked, counts)])

    asyncio.run(run())
    return events, asdict(counts)


def text_of(events):
    chunks = [json.loads(e[6:]) for e in events if isinstance(e, str) and e != DONE]
    choices = [choice for chunk in chunks for choice in chunk.get("choices", [])]
    return "".join(choice["delta"].get("content", "") for choice in choices)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch):
    monkeypatch.setattr(failover, "_PAUSE_S", 0)


def test_a_stream_goes_on_from_its_tokens_and_says_nothing_twice():
    targets = Targets(
        [role(), said("one ", 1, 2), said("two ", 3), ActorDiedError()],
        [role(id="b"), said("one two ", 1, 2, 3), said("three", 4, reason="stop"), DONE],
    )
    events, counts = collect(streamed, targets)
    assert text_of(events) == "one two three"
    assert len(events) == 5
    assert {json.loads(e[6:])["id"] for e in events[:-1]} == {"a"}
    assert targets.asked[0].return_token_ids
    assert targets.asked[1].vllm_xargs == {
        RESUME: Resumption((9, 8), (SaidChoice((1, 2, 3), None, None),))
    }
    assert counts == {"continued": 1, "restarted": 0, "given_up": 0}


def test_token_ids_are_for_clients_that_ask():
    targets = Targets([role(), said("one", 1, reason="stop"), DONE])
    events, _ = collect(streamed, targets)
    assert not any("token_ids" in e for e in events)
    targets = Targets([role(), said("one", 1, reason="stop"), DONE])
    events, _ = collect(streamed, targets, Body(return_token_ids=True))
    assert ["token_ids" in e for e in events] == [True, True, False]


def test_a_stream_that_has_said_nothing_begins_anew_under_its_first_name():
    targets = Targets(
        [role(), ActorDiedError()], [role(id="b"), said("one", 1, reason="stop"), DONE]
    )
    events, counts = collect(streamed, targets)
    assert targets.asked[1].vllm_xargs is None
    assert [json.loads(e[6:])["id"] for e in events[:-1]] == ["a", "a"]
    assert counts == {"continued": 0, "restarted": 1, "given_up": 0}


def test_a_stream_cut_short_or_aborted_goes_on_too():
    for end in ([], [said("", reason="abort"), DONE]):
        targets = Targets(
            [role(), said("one ", 1), *end],
            [role(), said("one ", 1), said("two", 2, reason="stop"), DONE],
        )
        events, counts = collect(streamed, targets)
        assert text_of(events) == "one two"
        assert counts["continued"] == 1


ATTACHED_USAGE = {"usage": {"prompt_tokens": 5, "completion_tokens": 2}, "choices": []}


def attached(*events, body=None):
    """A stream of an engine that somebody else launched: its chunks name no tokens."""
    asked, targets = Delivered(body or Body(), is_ours=False), Targets(*events)
    counts, got = FailoverCounts(), []

    async def run():
        got.extend([item async for item in streamed(targets, asked, counts)])

    asyncio.run(run())
    return got, asked, counts, targets


def plain(text):
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": None}])


def test_usage_of_an_attached_engine_is_charged_and_shown_where_it_was_asked_for():
    events = [plain("one "), plain("two"), event(**ATTACHED_USAGE), DONE]
    got, asked, _, targets = attached(events)
    assert (text_of(got), len(got), asked.num_tokens) == ("one two", 3, (5, 2))
    assert not targets.asked[0].return_token_ids
    asking = replace(Body(), stream_options=SimpleNamespace(include_usage=True))
    got, *_ = attached(events, body=asking)
    assert json.loads(got[2][6:])["usage"]["completion_tokens"] == 2


def test_an_attached_engine_may_say_more_than_we_know():
    filtered = {"choices": [], "prompt_filter_results": [1], "id": "", "created": 0}
    got, *_ = attached([event(**filtered), plain("one"), event(**ATTACHED_USAGE), DONE])
    assert json.loads(got[0][6:])["prompt_filter_results"] == [1]
    nameless = 'data: {"choices": [{"index": 0, "delta": {"content": "x"}}]}\n\n'
    got, *_ = attached([nameless, DONE])
    assert text_of(got) == "x"


def test_a_stream_of_an_attached_engine_ends_with_why_it_cannot_go_on():
    got, _, counts, _ = attached([plain("one "), EngineLostError("reset")])
    assert "was not made to take streams up" in got[-2]
    assert got[-1] == DONE
    assert asdict(counts) == {"continued": 0, "restarted": 0, "given_up": 1}


def test_before_it_said_anything_another_engine_is_asked():
    got, _, counts, _ = attached([EngineLostError("refused")], [plain("one"), DONE])
    assert (text_of(got), counts.restarted) == ("one", 1)


def test_choices_go_on_each_from_its_own_tokens():
    targets = Targets(
        [role(), said("a", 1), said("b", 2, index=1, reason="stop"), ActorDiedError()],
        [
            *(role(), said("a", 1), said("b", 2, index=1, reason="stop")),
            *(said("c", 3, reason="stop"), DONE),
        ],
    )
    events, _ = collect(streamed, targets, Body(n=2))
    assert text_of(events) == "abc"
    resumption = targets.asked[1].vllm_xargs[RESUME]
    assert resumption.choices == (SaidChoice((1,)), SaidChoice((2,), "stop"))


@pytest.mark.parametrize(
    ("feature", "why"),
    [
        ({"include_reasoning": False}, "include_reasoning off hides which tokens were said"),
        ({"use_beam_search": True}, "beam search keeps more than what it has said"),
        ({"thinking_token_budget": 64}, "thinking_token_budget: how much of it is spent"),
        ({"thinking_token_budget": 0}, "thinking_token_budget: how much of it is spent"),
        ({"echo": True, "prompt": "Once"}, "echo: what was said is not told from the prompt"),
        ({"prompt": ["One", "Two"]}, "several prompts in one request"),
    ],
)
def test_what_cannot_go_on_ends_with_an_error_event_that_says_why(feature, why):
    untold = event(choices=[{"index": 0, "delta": {"content": "x"}}])
    targets = Targets([role(), untold, ActorDiedError()])
    events, counts = collect(streamed, targets, Body(**feature))
    *_, error, done = events
    assert why in json.loads(error[6:])["error"]["message"]
    assert (text_of(events), done) == ("x", DONE)
    assert counts == {"continued": 0, "restarted": 0, "given_up": 1}
    assert len(targets.asked) == 1
    assert not targets.asked[0].return_token_ids


def test_such_a_request_begins_anew_as_long_as_nothing_was_said():
    targets = Targets([role(), ActorDiedError()], [role(), plain("one"), DONE])
    events, counts = collect(streamed, targets, Body(use_beam_search=True))
    assert text_of(events) == "one"
    assert counts == {"continued": 0, "restarted": 1, "given_up": 0}


def test_why_the_next_target_cannot_take_a_stream_up_reaches_the_client():
    refused = event(error={"message": "structured output behind reasoning cannot be taken up"})
    targets = Targets([role(), said("one ", 1), ActorDiedError()], [refused, DONE])
    events, counts = collect(streamed, targets)
    assert text_of(events) == "one "
    assert events[-2:] == [refused, DONE]
    assert counts == {"continued": 0, "restarted": 0, "given_up": 1}


def test_a_stream_that_was_taken_up_and_then_failed_is_both():
    failed = event(error={"message": "the engine says no"})
    targets = Targets(
        [role(), said("one ", 1), ActorDiedError()],
        [role(), said("one ", 1), said("two ", 2), failed, DONE],
    )
    events, counts = collect(streamed, targets)
    assert text_of(events) == "one two "
    assert events[-2:] == [failed, DONE]
    assert counts == {"continued": 1, "restarted": 0, "given_up": 1}


def test_an_error_event_of_a_first_target_is_no_loss():
    failed = event(error={"message": "the engine says no"})
    events, counts = collect(streamed, Targets([role(), said("one ", 1), failed, DONE]))
    assert events[-2:] == [failed, DONE]
    assert counts == {"continued": 0, "restarted": 0, "given_up": 0}


def test_targets_that_die_before_they_take_a_stream_up_did_not_continue_it():
    targets = Targets(
        [role(), said("one ", 1), ActorDiedError()],
        [ActorDiedError()],
        [role(), said("one ", 1), said("two", 2, reason="stop"), DONE],
    )
    events, counts = collect(streamed, targets)
    assert text_of(events) == "one two"
    assert counts == {"continued": 1, "restarted": 0, "given_up": 0}


def test_a_target_that_refuses_to_take_a_stream_up_ends_it():
    refusal = SimpleNamespace(error=SimpleNamespace(message="its scheduler_cls is not ours"))
    targets = Targets([role(), said("one ", 1), ActorDiedError()], [[refusal]])
    events, counts = collect(streamed, targets)
    assert text_of(events) == "one "
    assert "its scheduler_cls is not ours" in events[-2]
    assert events[-1] == DONE
    assert len(targets.asked) == 2
    assert counts == {"continued": 0, "restarted": 0, "given_up": 1}


def test_a_request_is_tried_on_few_targets_as_it_may_be_what_they_die_of():
    targets = Targets(*[[ActorDiedError()]] * 9)
    with pytest.raises(NoTargetError):
        collect(streamed, targets)
    assert len(targets.asked) == MAX_TARGETS
    targets = Targets(*[[ActorDiedError()]] * 9)
    with pytest.raises(NoTargetError):
        collect(answered, targets)
    assert len(targets.asked) == MAX_TARGETS


def test_a_full_fleet_refuses_new_requests_and_keeps_begun_streams():
    full = BackPressureError(num_queued_requests=1, max_queued_requests=1)
    with pytest.raises(BackPressureError):
        collect(streamed, Targets([full]))
    targets = Targets(
        [role(), said("one ", 1), ActorDiedError()],
        [full],
        [role(), said("one ", 1), said("two", 2, reason="stop"), DONE],
    )
    events, counts = collect(streamed, targets)
    assert text_of(events) == "one two"
    assert counts == {"continued": 1, "restarted": 0, "given_up": 0}


REFUSALS = [
    RefusedByAllError(TryLater("too_late", 3)),
    BackPressureError(num_queued_requests=1, max_queued_requests=1),
]


@pytest.mark.parametrize("refusal", REFUSALS)
def test_a_request_that_begins_anew_is_refused_like_any_other(refusal):
    targets = Targets([ActorDiedError()], [refusal], [role(), plain("late"), DONE])
    with pytest.raises(type(refusal)) as raised:
        collect(streamed, targets)
    assert raised.value is refusal
    assert len(targets.asked) == 2


@pytest.mark.parametrize("refusal", REFUSALS)
def test_one_whose_client_has_its_role_ends_with_an_error_event(refusal):
    targets = Targets([role(), ActorDiedError()], [refusal], [role(), plain("late"), DONE])
    events, counts = collect(streamed, targets)
    assert (len(events), len(targets.asked)) == (3, 2)
    assert str(refusal) in json.loads(events[1][6:])["error"]["message"]
    assert events[-1] == DONE
    assert counts == {"continued": 0, "restarted": 1, "given_up": 1}


def test_a_stream_of_which_only_the_role_came_ends_with_an_error_event_too():
    targets = Targets([role(), ActorDiedError()], *[[ActorDiedError()]] * 9)
    events, counts = collect(streamed, targets)
    assert "no target is left" in json.loads(events[1][6:])["error"]["message"]
    assert (len(targets.asked), events[-1]) == (MAX_TARGETS, DONE)
    assert counts == {"continued": 0, "restarted": 2, "given_up": 1}


def test_a_begun_stream_waits_for_a_target_no_longer_than_its_patience(monkeypatch):
    monkeypatch.setattr(failover, "PATIENCE_S", 0.05)

    async def ask(body):
        if RESUME in (body.vllm_xargs or {}):
            await asyncio.sleep(60)
        yield [role()]
        yield [said("one", 1)]
        raise ActorDiedError

    events, counts = collect(streamed, ask)
    assert "no target is left" in events[-2]
    assert counts == {"continued": 0, "restarted": 0, "given_up": 1}


def test_the_usage_is_told_once():
    usage = event(choices=[], usage={"completion_tokens": 1})
    end = [said("one", 1, reason="stop"), usage]
    events, _ = collect(streamed, Targets([role(), *end, ActorDiedError()], [role(), *end, DONE]))
    assert [json.loads(e[6:])["choices"] for e in events[2:-1]] == [[]]
    assert events[-1] == DONE


def test_a_whole_answer_begins_anew_until_it_is_there():
    targets = Targets([ActorDiedError()], [{"answer": 1}])
    events, counts = collect(answered, targets)
    assert events == [{"answer": 1}]
    assert counts == {"continued": 0, "restarted": 1, "given_up": 0}


def test_the_chunks_of_a_parser_that_says_nothing_stay_behind_but_are_known():
    silent = event(choices=[{"index": 0, "delta": {}, "token_ids": [1], "finish_reason": None}])
    delivered = Delivered(Body())
    assert delivered.take(role()) is not None
    assert delivered.take(silent) is None
    said_so_far = delivered.next_request().vllm_xargs[RESUME]
    assert said_so_far.choices == (SaidChoice((1,)),)


def test_without_token_ids_nothing_can_go_on():
    delivered = Delivered(Body())
    delivered.take(event(choices=[{"index": 0, "delta": {"content": "x"}, "token_ids": [1]}]))
    with pytest.raises(CannotContinueError, match="which tokens were said is not known"):
        delivered.next_request()
