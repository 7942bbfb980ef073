"""The gate in an event loop of its own, on a clock that the test sets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable

import pytest

from autoscale.admission import ReplicaLimits
from autoscale.request_cost import RequestCost
from autoscale.service_class import ServiceClass
from deployments.replica_gate import RefusedError, ReplicaGate

CLASSES = {
    "any": ServiceClass("any", math.inf, math.inf),
    "soon": ServiceClass("soon", ttft_s=1.0, tpot_s=0.5),
    "urgent": ServiceClass("urgent", math.inf, math.inf, priority=1),
    "at_once": ServiceClass("at_once", ttft_s=0.02, tpot_s=math.inf),
}


class Scene:
    """A gate with two seats. Requests enter by name; `seated` are those that hold a seat."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.gate = ReplicaGate(
            ReplicaLimits(seats=2, queued_requests=3),
            CLASSES,
            clock=lambda: self.now_s,
        )
        self.seated: list[str] = []
        self.refused: dict[str, float] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def enter(self, name: str, class_name: str = "any") -> None:
        self._ends[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._run(name, class_name))
        await turns()

    async def end(self, name: str) -> None:
        self._ends[name].set()
        await turns()

    async def cancel(self, name: str) -> None:
        self._tasks[name].cancel()
        await turns()

    async def _run(self, name: str, class_name: str) -> None:
        try:
            async with self.gate.seat(class_name, "tenant", RequestCost(10, 10)) as seat:
                self.seated.append(name)
                try:
                    seat.saw_tokens(1)
                    await self._ends[name].wait()
                    seat.saw_tokens(9)
                    seat.is_whole = True
                finally:
                    self.seated.remove(name)
        except RefusedError as error:
            self.refused[name] = error.refusal.retry_after_s

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        classes = self.gate.snapshot()["classes"]
        return {n: {k: v for k, v in one.items() if v} for n, one in classes.items()}


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def play(story: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        scene = Scene()
        await story(scene)
        for task in scene._tasks.values():
            task.cancel()
        await asyncio.gather(*scene._tasks.values(), return_exceptions=True)
        assert (scene.gate.snapshot()["running"], scene.gate.snapshot()["waiting"]) == (0, 0)

    asyncio.run(run())


def test_requests_take_turns_on_the_seats():
    async def story(scene: Scene) -> None:
        for name in "abc":
            await scene.enter(name)
        assert scene.seated == ["a", "b"]
        await scene.end("a")
        assert scene.seated == ["b", "c"]

    play(story)


def test_beyond_the_queue_requests_are_refused_at_once():
    async def story(scene: Scene) -> None:
        for name in "abcdef":
            await scene.enter(name)
        assert scene.refused == {"f": 0.0}
        assert scene.counts["any"] == {"arrived": 3, "admitted": 2, "shed_queue_full": 1}

    play(story)


def test_who_makes_room_for_a_higher_priority_is_refused_as_who_comes_too_late():
    async def story(scene: Scene) -> None:
        for name in "abcde":
            await scene.enter(name)
        await scene.enter("first", "urgent")
        assert scene.refused == {"e": 0.0}
        await scene.end("a")
        assert scene.seated == ["b", "first"]
        assert scene.counts["any"] == {
            "arrived": 3,
            "admitted": 2,
            "shed_queue_full": 1,
            "met": 1,
        }

    play(story)


def test_a_request_that_is_cancelled_in_the_queue_leaves_it():
    async def story(scene: Scene) -> None:
        for name in "abcd":
            await scene.enter(name)
        await scene.cancel("c")
        await scene.end("a")
        assert scene.seated == ["b", "d"]
        assert scene.counts["any"]["gave_up"] == 1

    play(story)


def test_a_request_that_is_cancelled_on_its_seat_frees_it():
    async def story(scene: Scene) -> None:
        for name in "abc":
            await scene.enter(name)
        await scene.cancel("a")
        assert scene.seated == ["b", "c"]
        assert scene.counts["any"]["broken_off"] == 1

    play(story)


def test_a_request_that_is_cancelled_as_it_is_called_passes_its_seat_on():
    async def story(scene: Scene) -> None:
        for name in "abcd":
            await scene.enter(name)
        scene._ends["a"].set()
        await asyncio.sleep(0)  # a leaves and calls c, which has not run yet
        await scene.cancel("c")
        assert scene.seated == ["b", "d"]

    play(story)


def test_a_request_that_is_cancelled_just_before_it_is_called_passes_its_seat_on():
    async def story(scene: Scene) -> None:
        for name in "abcd":
            await scene.enter(name)
        scene._ends["a"].set()
        scene._tasks["c"].cancel()  # a leaves first, and calls c
        await turns()
        assert scene.seated == ["b", "d"]

    play(story)


def test_a_request_whose_time_is_up_is_refused():
    async def story(scene: Scene) -> None:
        for name in "ab":
            await scene.enter(name)
        await scene.enter("late", "soon")
        scene.now_s = 0.55
        await scene.enter("c")
        assert list(scene.refused) == ["late"]
        assert scene.counts["soon"] == {"arrived": 1, "shed_too_late": 1}

    play(story)


def test_a_timer_refuses_without_being_asked():
    async def story(scene: Scene) -> None:
        for name in "ab":
            await scene.enter(name)
        await scene.enter("late", "at_once")
        scene.now_s = 0.011
        await asyncio.sleep(0.1)
        assert list(scene.refused) == ["late"]

    play(story)


@pytest.mark.parametrize(("seconds", "what"), [(4.0, "met"), (5.0, "missed")])
def test_promises_met_and_missed_are_counted(seconds, what):
    async def story(scene: Scene) -> None:
        await scene.enter("a", "soon")
        scene.now_s = seconds  # ten tokens: nine gaps of half a second
        await scene.end("a")
        assert scene.counts["soon"] == {"arrived": 1, "admitted": 1, what: 1}
        assert scene.gate.take_traffic().outcomes["soon"] == (1.0, float(what == "met"))
        assert scene.gate.take_latencies() == [("soon", 0.0, seconds / 9)]
        assert scene.gate.take_latencies() == []

    play(story)


@pytest.mark.parametrize(("seconds", "what"), [(2.5, "met"), (2.6, "missed")])
def test_an_answer_in_one_piece_has_the_time_of_all_its_tokens(seconds, what):
    async def run() -> None:
        now_s = 0.0
        gate = ReplicaGate(ReplicaLimits(seats=2), CLASSES, clock=lambda: now_s)
        async with gate.seat("soon", "", RequestCost(10, 4)) as seat:
            now_s = seconds  # 1 s to the first token, 0.5 s for each of the three others
            seat.saw_whole(4)
            seat.is_whole = True
        assert gate.snapshot()["classes"]["soon"][what] == 1
        assert gate.take_latencies() == []  # when its first token came is not known
        assert gate.take_traffic().tokens_per_s == 4 / seconds

    asyncio.run(run())


def test_traffic_is_what_came_and_went_since_it_was_last_taken():
    async def story(scene: Scene) -> None:
        scene.gate.take_traffic()
        for name in "abc":
            await scene.enter(name)
        scene.now_s += 2.0
        seen = scene.gate.take_traffic()
        assert (seen.elapsed_s, seen.arrivals_per_s, seen.prompt_tokens_per_s) == (2.0, 1.0, 10.0)
        assert (seen.seated, seen.waiting) == (2, 1)
        await scene.end("a")
        scene.now_s += 1.0
        seen = scene.gate.take_traffic()
        assert (seen.arrivals_per_s, seen.prompt_tokens_per_s, seen.tokens_per_s) == (1, 10, 10.0)

    play(story)


def test_an_unknown_class_is_the_default_one():
    gate = Scene().gate
    assert (gate.known_class("soon"), gate.known_class("gone"), gate.known_class(None)) == (
        "soon",
        "any",
        "any",
    )


def test_demand_includes_those_that_were_refused_before_they_came_here():
    def demand_seats(num_unseen: int) -> tuple[float, float]:
        async def run() -> tuple[float, float]:
            now_s = 0.0
            gate = ReplicaGate(ReplicaLimits(seats=2), CLASSES, clock=lambda: now_s)
            async with gate.seat("any", "t", RequestCost(1, 1), num_unseen=num_unseen):
                now_s = 3.0
            return gate.demand_seats(), gate.take_traffic().arrivals_per_s

        return asyncio.run(run())

    (seats, arrivals_per_s), (more_seats, more_arrivals_per_s) = demand_seats(0), demand_seats(9)
    assert more_seats == pytest.approx(10 * seats)
    assert more_arrivals_per_s == pytest.approx(10 * arrivals_per_s)


def test_a_request_that_goes_elsewhere_when_refused_is_demand_there():
    async def run(*, goes_elsewhere: bool) -> tuple[float, tuple[float, float]]:
        gate = ReplicaGate(ReplicaLimits(seats=1, queued_requests=0), CLASSES, clock=lambda: 0.0)
        async with gate.seat("any", "t", RequestCost(1, 1)):
            gate.take_traffic()
            with pytest.raises(RefusedError):
                async with gate.seat("any", "t", RequestCost(1, 1), goes_elsewhere=goes_elsewhere):
                    raise AssertionError("there is no seat")
            traffic = gate.take_traffic()
        return traffic.arrivals_per_s, traffic.outcomes["any"]

    assert asyncio.run(run(goes_elsewhere=True)) == (0.0, (0.0, 0.0))
    assert asyncio.run(run(goes_elsewhere=False)) == (1000.0, (1.0, 0.0))


@pytest.mark.parametrize(("seconds", "what"), [(4.0, "met"), (5.0, "missed")])
def test_a_stream_that_continues_is_judged_by_its_time_per_token_and_is_no_arrival(seconds, what):
    async def run() -> None:
        now_s = 100.0
        gate = ReplicaGate(ReplicaLimits(seats=2), CLASSES, clock=lambda: now_s)
        async with gate.seat("soon", "", RequestCost(10, 50), age_s=60.0, continues=True) as seat:
            seat.saw_tokens(1)
            now_s += seconds  # nine gaps of half a second
            seat.saw_tokens(9)
            seat.is_whole = True
        counted = {k: v for k, v in gate.snapshot()["classes"]["soon"].items() if v}
        assert counted == {"continued": 1, "admitted": 1, what: 1}
        assert gate.take_latencies() == []
        traffic = gate.take_traffic()
        assert (traffic.arrivals_per_s, traffic.prompt_tokens_per_s) == (0.0, 0.0)
        assert traffic.outcomes["soon"] == (1.0, float(what == "met"))
        assert gate.demand_seats() == 0.0
        assert gate.costs.output_tokens("soon", 100) == 100.0

    asyncio.run(run())


def test_a_stream_that_had_only_its_end_to_say_has_kept_its_promise():
    async def run() -> None:
        gate = ReplicaGate(ReplicaLimits(seats=2), CLASSES, clock=lambda: 100.0)
        async with gate.seat("soon", "", RequestCost(10, 50), age_s=60.0, continues=True) as seat:
            seat.is_whole = True
        assert gate.snapshot()["classes"]["soon"]["met"] == 1

    asyncio.run(run())
