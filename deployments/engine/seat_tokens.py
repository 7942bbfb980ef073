"""Tokens as they leave vLLM's engine, told to the seats of the requests that they belong to.

They are counted where every step's outputs come in, not where answers go out: an answer that
is not streamed goes out once, at the end.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

from deployments.replica_gate import Seat
from deployments.seated_requests import SEAT


def tell_seats(output_processor: Any) -> None:
    """Let vLLM's `OutputProcessor` tell the seat in whose context a request was added."""
    seats: WeakValueDictionary[str, Seat] = WeakValueDictionary()
    add_request, process_outputs = output_processor.add_request, output_processor.process_outputs

    def adding(request: Any, *args: Any, **kwargs: Any) -> Any:
        seat = SEAT.get()
        if seat is not None:
            seats[request.request_id] = seat
            if request.prompt_token_ids is not None:
                seat.prompt_tokens = len(request.prompt_token_ids)
        return add_request(request, *args, **kwargs)

    def processing(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        for output in outputs:
            seat = seats.get(output.request_id)
            if seat is not None and output.new_token_ids:
                seat.saw_tokens(len(output.new_token_ids))
        return process_outputs(outputs, *args, **kwargs)

    output_processor.add_request = adding
    output_processor.process_outputs = processing
