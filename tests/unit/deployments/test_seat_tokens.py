"""Tokens are told to the seat in whose context their request was added."""

from __future__ import annotations

import contextvars
from types import SimpleNamespace
from typing import Any

from deployments.engine.seat_tokens import tell_seats
from deployments.seated_requests import SEAT


class Processor:
    """As much of vLLM's `OutputProcessor` as is wrapped."""

    def __init__(self) -> None:
        self.added: list[str] = []
        self.processed: list[Any] = []

    def add_request(self, request: Any, prompt: Any, parent: Any, index: int, queue: Any) -> None:
        self.added.append(request.request_id)

    def process_outputs(self, outputs: Any, timestamp: float, stats: Any) -> str:
        self.processed += outputs
        return "processed"


class FakeSeat:
    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.prompt_tokens: int | None = None

    def saw_tokens(self, num_tokens: int) -> None:
        self.tokens.append(num_tokens)


def metered() -> Processor:
    processor = Processor()
    tell_seats(processor)
    return processor


def add(processor: Processor, request_id: str, seat: FakeSeat | None, prompt_ids: Any) -> None:
    def run() -> None:
        SEAT.set(seat)  # type: ignore[arg-type]
        request = SimpleNamespace(request_id=request_id, prompt_token_ids=prompt_ids)
        processor.add_request(request, "text", None, 0, None)

    contextvars.copy_context().run(run)


def output(request_id: str, *token_ids: int) -> SimpleNamespace:
    return SimpleNamespace(request_id=request_id, new_token_ids=list(token_ids))


def test_every_seat_hears_of_its_own_tokens():
    processor, one, two = metered(), FakeSeat(), FakeSeat()
    add(processor, "a", one, [1, 2, 3])
    add(processor, "b", two, None)
    outputs = [output("a", 7, 8), output("b", 9), output("nobody", 1)]
    assert processor.process_outputs(outputs, 0.0, None) == "processed"
    processor.process_outputs([output("a"), output("b", 4)], 0.0, None)
    assert (one.tokens, two.tokens) == ([2], [1, 1])
    assert (one.prompt_tokens, two.prompt_tokens) == (3, None)
    assert processor.added == ["a", "b"]
    assert len(processor.processed) == 5


def test_several_requests_of_one_seat_are_added_up():
    processor, seat = metered(), FakeSeat()
    add(processor, "a", seat, [1])
    add(processor, "b", seat, [1])
    processor.process_outputs([output("a", 5), output("b", 6, 7)], 0.0, None)
    assert seat.tokens == [1, 2]


def test_without_a_seat_nothing_is_told():
    processor = metered()
    add(processor, "a", None, [1])
    processor.process_outputs([output("a", 5)], 0.0, None)
    assert processor.processed


def test_a_seat_that_is_gone_is_forgotten():
    processor, seat = metered(), FakeSeat()
    add(processor, "a", seat, [1])
    del seat
    processor.process_outputs([output("a", 5)], 0.0, None)
