"""Where requests go: by the numbers given, and in a simulated pool with old numbers."""

from __future__ import annotations

import math
import random
import statistics
from collections import Counter, deque
from collections.abc import Callable, Sequence
from string import ascii_letters

import pytest

from autoscale.fair_queue import Flow
from autoscale.pool_view import PoolView, Refused, ReplicaState
from autoscale.prefixes import CHUNK_CHARS, PrefixMemory, chunk_keys
from autoscale.routing import Candidate, rank, relative_speeds
from autoscale.service_class import ServiceClass


def first(candidates: Sequence[Candidate], work: float, times: int = 400) -> Counter[int]:
    """How often each comes first."""
    rng = random.Random(0)
    return Counter(rank(candidates, work, rng)[0] for _ in range(times))


def test_of_two_the_one_with_less_to_do():
    assert first([Candidate(50.0), Candidate(40.0)], 10.0) == {1: 400}


def test_a_slow_one_takes_less():
    # 40 + 10 at half the speed is as long as 100 at full.
    assert first([Candidate(40.0, speed=0.5), Candidate(80.0)], 10.0) == {1: 400}
    assert first([Candidate(40.0, speed=0.5), Candidate(95.0)], 10.0) == {0: 400}


def test_idle_ones_share_by_speed():
    shares = first([Candidate(0.0)] * 4, 10.0)
    assert all(shares[i] == pytest.approx(100, abs=35) for i in range(4))


def test_the_worst_of_many_never_comes_first():
    assert first([Candidate(100.0), *[Candidate(0.0)] * 3], 10.0)[0] == 0


def test_a_known_prompt_goes_where_it_is_known_while_that_is_sooner():
    pool = [Candidate(0.0) for _ in range(8)]
    pool[5] = Candidate(30.0, known_work=40.0)
    assert first(pool, 50.0) == {5: 400}
    pool[5] = Candidate(50.0, known_work=40.0)
    assert first(pool, 50.0)[5] == 0


def test_a_beginning_that_all_know_draws_nobody():
    others = [Candidate(9.0)] * 7
    drawn = first([Candidate(0.0), *others], 50.0, 8000)
    known = [one._replace(known_work=30.0) for one in [Candidate(0.0), *others]]
    assert first(known, 50.0, 8000) == drawn
    assert drawn[0] == pytest.approx(2000, abs=100)  # drawn twice in eight


def test_of_those_that_know_the_same_any_comes_into_question():
    pool = [Candidate(0.0, known_work=40.0 * (i in (2, 6))) for i in range(8)]
    shares = first(pool, 50.0, 4000)
    assert shares.keys() == {2, 6}
    assert shares[2] == pytest.approx(2000, abs=150)


def test_a_full_one_is_left_out_unless_all_are():
    pool = [Candidate(0.0, known_work=50.0, is_full=True), Candidate(90.0), Candidate(80.0)]
    assert first(pool, 50.0) == {2: 400}
    assert rank(pool[:1], 1.0, random.Random(0)) == [0]


def test_every_rank_is_another_replica():
    ranked = rank([Candidate(0.0)] * 3, 1.0, random.Random(0))
    assert len(ranked) == len(set(ranked)) == 2
    assert rank([Candidate(0.0)], 1.0, random.Random(0)) == [0]
    assert rank([], 1.0, random.Random(0)) == []


@pytest.mark.parametrize(
    ("token_s", "speeds"),
    [
        ([0.02, 0.02, 0.04], [1.0, 1.0, 0.5]),
        ([0.02, None, 0.04], [1.0, 1.0, 0.5]),
        ([None, None], [1.0, 1.0]),
        ([0.02, 0.02, 100.0], [1.0, 1.0, 0.125]),
        ([], []),
    ],
)
def test_speeds_are_relative_and_bounded(token_s, speeds):
    assert relative_speeds(token_s) == speeds


def test_prefixes_are_known_by_whole_chunks_from_the_beginning():
    memory = PrefixMemory()
    text = "x" * (3 * CHUNK_CHARS) + "rest"
    memory.remember(chunk_keys(text))
    assert memory.known_chars(chunk_keys(text)) == 3 * CHUNK_CHARS
    assert memory.known_chars(chunk_keys(text[: 2 * CHUNK_CHARS] + "y" * 500)) == 2 * CHUNK_CHARS
    assert memory.known_chars(chunk_keys("y" + text)) == 0
    assert chunk_keys("short") == []


def test_a_chunk_stands_for_all_before_it():
    memory = PrefixMemory()
    memory.remember(chunk_keys("a" * CHUNK_CHARS + "b" * CHUNK_CHARS))
    assert memory.known_chars(chunk_keys("b" * CHUNK_CHARS)) == 0


def test_the_same_text_of_another_adapter_or_salt_is_not_known():
    memory = PrefixMemory()
    text = "x" * CHUNK_CHARS
    memory.remember(chunk_keys(text, "french:"))
    assert memory.known_chars(chunk_keys(text, "french:")) == CHUNK_CHARS
    assert memory.known_chars(chunk_keys(text)) == 0
    assert memory.known_chars(chunk_keys(text, "french:salt")) == 0
    assert memory.known_chars(chunk_keys(text, "")) == 0


def test_of_forgotten_prompts_the_beginning_is_forgotten_last():
    memory = PrefixMemory(most_chunks=4)
    old, new = ("".join(c * CHUNK_CHARS for c in word) for word in ("abcd", "wx"))
    memory.remember(chunk_keys(old))
    memory.remember(chunk_keys(new))
    assert len(memory) == 4
    assert memory.known_chars(chunk_keys(old)) == 2 * CHUNK_CHARS
    assert memory.known_chars(chunk_keys(new)) == 2 * CHUNK_CHARS


def view_of(*replicas: str) -> PoolView:
    view: PoolView = PoolView()
    view.keep(replicas)
    return view


def test_without_reports_what_was_sent_and_has_not_ended_counts():
    view = view_of("a", "b")
    view.sent("a", "r1", 10.0)
    view.sent("a", "r2", 20.0)
    view.ended("a", "r1")
    assert (view.outstanding_work("a", 0.0), view.outstanding_work("b", 0.0)) == (20.0, 0.0)


def test_a_report_says_what_others_sent():
    view = view_of("a")
    view.sent("a", "r1", 100.0)
    view.report("a", ReplicaState(1, 300.0), 0.0)
    assert view.outstanding_work("a", 0.0) == 300.0
    view.sent("a", "r2", 40.0)
    view.ended("a", "r1")
    assert view.outstanding_work("a", 0.0) == 240.0
    view.report("a", ReplicaState(2, 140.0), 1.0)
    assert view.outstanding_work("a", 1.0) == 40.0 + 180.0  # a fifth of the way to 100


def test_a_report_of_less_than_was_sent_changes_nothing():
    view = view_of("a")
    view.sent("a", "r1", 100.0)
    view.report("a", ReplicaState(1, 30.0), 0.0)
    assert view.outstanding_work("a", 0.0) == 100.0


def test_an_old_report_is_not_believed_and_the_same_one_does_not_get_younger():
    view = view_of("a")
    view.report("a", ReplicaState(1, 300.0, token_s=0.5), 10.0)
    view.report("a", ReplicaState(1, 300.0, token_s=0.5), 14.0)
    assert view.outstanding_work("a", 15.0) == 300.0
    assert view.outstanding_work("a", 15.1) == 0.0


SOON, BATCH, OTHERS = Flow("soon", "t"), Flow("batch", "t"), Flow("soon", "u")


def full(view: PoolView, asker: Flow, now_s: float, refused_by: str = "") -> list[bool]:
    candidates = view.candidates("ab", asker, [], 0.0, now_s, refused_by)
    return [one.is_full for one in candidates]


def test_who_refuses_is_full_for_a_moment_for_that_class_and_tenant():
    view = view_of("a", "b")
    assert view.num_open(SOON, 10.0) == 2
    view.refused("a", SOON, Refused(3.0, "too_late"), 10.0)
    assert full(view, SOON, 10.4) == [True, False]
    assert full(view, BATCH, 10.4) == full(view, OTHERS, 10.4) == [False, False]
    assert (view.num_open(SOON, 10.4), view.num_open(OTHERS, 10.4)) == (1, 2)
    assert view.refused_by_all(SOON, 10.4) is None
    view.refused("b", SOON, Refused(4.0, "too_late"), 10.0)
    assert view.refused_by_all(SOON, 10.4) == Refused(3.0, "too_late")
    assert view.refused_by_all(BATCH, 10.4) is None
    assert view.refused_by_all(OTHERS, 10.4) is None
    assert view.refused_by_all(SOON, 10.5) is None
    assert view_of().refused_by_all(SOON, 0.0) is None


def test_who_refuses_one_request_for_what_it_is_has_room_for_others():
    view = view_of("a", "b")
    for replica in "ab":
        view.refused(replica, SOON, Refused(0.0, "too_late", scope="request"), 10.0)
    assert view.refused_by_all(SOON, 10.0) is None
    assert full(view, SOON, 10.0) == [False, False]
    assert full(view, SOON, 10.0, refused_by="a") == [True, False]  # of that very request


def test_who_refuses_everybody_is_full_for_every_line():
    view = view_of("a")
    view.refused("a", SOON, Refused(2.0, "engine_down", scope="everybody"), 10.0)
    assert view.refused_by_all(OTHERS, 10.4) == Refused(2.0, "engine_down", scope="everybody")
    assert view.refused_by_all(BATCH, 10.5) is None


class Even(random.Random):
    """The middle of everything."""

    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


PROMISED = ServiceClass("soon", 2.0, 0.1)


def told(view: PoolView, refused: Refused, now_s: float = 0.0, num_turns: float = 1.0) -> float:
    return view.turn_away(SOON, PROMISED, refused, now_s, num_turns).retry_after_s


def test_the_refused_are_told_to_come_back_one_after_the_other():
    view = PoolView(Even())
    view.keep("ab")  # four seconds of one are two of both
    refused = Refused(0.5, "too_late", work_s=4.0)
    assert [told(view, refused) for _ in range(3)] == [2.5, 4.5, 6.5]
    assert told(view, refused, num_turns=0.5) == 7.5
    assert told(view, refused, now_s=100.0) == 2.5
    assert view.turn_away(SOON, PROMISED, refused, 200.0) == refused._replace(retry_after_s=2.5)


def test_what_they_are_told_is_spread_and_bounded():
    view = PoolView(random.Random(0))
    view.keep("a")
    apart = [told(view, Refused(0.0, "too_late", work_s=8.0), 100.0 * i) for i in range(50)]
    assert 6.0 <= min(apart) < 6.5
    assert 9.5 < max(apart) <= 10.0
    later_s = 1e4
    assert told(view, Refused(0.0, "too_late"), later_s) == 1.0
    assert told(view, Refused(7.0, "engine_busy"), later_s) == 7.0
    assert told(view, Refused(1000.0, "too_late"), later_s) == 60.0


def test_who_was_given_up_on_is_silent_until_it_is_heard_of():
    view = view_of("a", "b", "c")
    view.sent("a", "r1", 10.0)
    view.sent("b", "r2", 10.0)
    view.taken("b", "r2", [])
    for request in ("r1", "r2", "r3"):
        view.gave_up(request)
    assert view.answering("abc") == ["b", "c"]
    view.sent("a", "r4", 10.0)
    view.taken("a", "r4", [])
    assert view.answering("abc") == ["a", "b", "c"]
    assert view.outstanding_work("a", 0.0) == 20.0


def test_a_request_that_ends_says_no_more_of_who_had_it():
    view = view_of("a", "b")
    view.sent("a", "r1", 10.0)
    view.sent("a", "r1", 10.0)  # as it was tried there twice
    view.gave_up("r1")
    view.ended("a", "r1")
    assert view.answering("ab") == ["b"]
    view.ended("a", "r1")
    assert view.answering("ab") == ["a", "b"]
    view.taken("a", "r1", [])  # told late
    assert view.outstanding_work("a", 0.0) == 0.0


def test_where_all_are_silent_all_are_asked_and_nobody_refuses():
    view = view_of("a", "b")
    for replica in "ab":
        view.refused(replica, SOON, Refused(3.0, "too_late"), 10.0)
    view.sent("a", "r1", 10.0)
    view.gave_up("r1")
    assert view.refused_by_all(SOON, 10.0) == Refused(3.0, "too_late")
    view.sent("b", "r2", 10.0)
    view.gave_up("r2")
    assert view.answering("ab") == ["a", "b"]
    assert view.refused_by_all(SOON, 10.0) is None


def test_a_replica_that_is_gone_is_forgotten():
    view = view_of("a", "b")
    view.sent("a", "r1", 10.0)
    view.keep(["b"])
    view.ended("a", "r1")
    assert "a" not in view
    view.keep(["a", "b"])
    assert view.outstanding_work("a", 0.0) == 0.0


NO_PROMPT: list[bytes] = []
Choose = Callable[[PoolView, float, random.Random, list[bytes]], int]


class Pool:
    """Eight replicas that work off requests, two routers, reports of a second ago.

    A request has one of `prompts`, of which a replica reads what it has not read before.
    """

    WORK = 20.0
    WORK_PER_CHAR = 0.02

    def __init__(
        self, speeds: Sequence[float], prompts: Sequence[list[bytes]] = (), load: float = 0.85
    ) -> None:
        self.speeds = speeds
        self.prompts = prompts
        self.load = load  # without what is read
        self.read = [PrefixMemory() for _ in speeds]
        self.names = [str(i) for i in range(len(speeds))]
        self.backlog: list[deque[tuple[str, float, float]]] = [deque() for _ in speeds]
        self.routers = [view_of(*self.names) for _ in range(2)]
        self.waits: list[float] = []
        self.num_sent: Counter[int] = Counter()
        self.largest = 0

    def run(self, choose: Choose) -> Pool:
        rng = random.Random(1)
        reports: deque[tuple[float, list[ReplicaState]]] = deque()
        step_s, number = 0.05, 0
        rate = self.load * sum(self.speeds) * 100 / self.WORK  # requests per second
        for step in range(int(60 / step_s)):
            now_s = step * step_s
            for _ in range(_poisson(rng, rate * step_s)):
                router = rng.choice(self.routers)
                prompt = rng.choice(self.prompts) if self.prompts else NO_PROMPT
                i = choose(router, now_s, rng, prompt)
                self.num_sent[i] += 1
                number += 1
                name, id_ = self.names[i], str(number)
                self.backlog[i].append((id_, now_s, self.WORK + self._read(i, prompt)))
                router.sent(name, id_, self.WORK)
                router.taken(name, id_, prompt)
            for i, speed in enumerate(self.speeds):
                self._work(i, 100 * speed * step_s, now_s)
            if step % 20 == 0:
                reports.append((now_s, self._states(step)))
            if reports and reports[0][0] <= now_s - 1.0:
                for router in self.routers:
                    for name, state in zip(self.names, reports[0][1], strict=True):
                        router.report(name, state, now_s)
                reports.popleft()
            self.largest = max(self.largest, *map(len, self.backlog))
        return self

    def _states(self, number: int) -> list[ReplicaState]:
        return [
            ReplicaState(number, sum(work for *_, work in line), token_s=0.01 / speed)
            for line, speed in zip(self.backlog, self.speeds, strict=True)
        ]

    def _read(self, i: int, prompt: list[bytes]) -> float:
        """The work of reading what replica `i` has not read of it."""
        unread_chars = len(prompt) * CHUNK_CHARS - self.read[i].known_chars(prompt)
        self.read[i].remember(prompt)
        return self.WORK_PER_CHAR * unread_chars

    def _work(self, i: int, capacity: float, now_s: float) -> None:
        line = self.backlog[i]
        while line and capacity > 0:
            id_, since_s, work = line.popleft()
            if work > capacity:
                line.appendleft((id_, since_s, work - capacity))
                return
            capacity -= work
            self.waits.append(now_s - since_s)
            for router in self.routers:
                router.ended(self.names[i], id_)

    @property
    def p99_s(self) -> float:
        return statistics.quantiles(self.waits, n=100)[98]


def _poisson(rng: random.Random, mean: float) -> int:
    limit, count, product = math.exp(-mean), 0, rng.random()
    while product > limit:
        count += 1
        product *= rng.random()
    return count


def ours(router: PoolView, now_s: float, rng: random.Random, prompt: list[bytes]) -> int:
    names = [str(i) for i in range(8)]
    candidates = router.candidates(names, SOON, prompt, Pool.WORK_PER_CHAR, now_s)
    own = Pool.WORK + Pool.WORK_PER_CHAR * CHUNK_CHARS * len(prompt)
    return rank(candidates, own, rng)[0]


def without_prompts(router: PoolView, now_s: float, rng: random.Random, _: list[bytes]) -> int:
    return ours(router, now_s, rng, NO_PROMPT)


def by_own_count(router: PoolView, now_s: float, rng: random.Random, _: list[bytes]) -> int:
    """Two drawn evenly, the one that this router sent less to: Serve's own rule."""
    two = rng.sample(range(8), 2)
    return min(two, key=lambda i: len(router._replicas[str(i)].sent))


def least_reported(router: PoolView, now_s: float, rng: random.Random, _: list[bytes]) -> int:
    """The best of all by the last reports alone."""
    states = [router._replicas[str(i)].state for i in range(8)]
    return min(range(8), key=lambda i: states[i].outstanding_work if states[i] else 0.0)


SLOW = [0.5, *[1.0] * 7]
EQUAL = [1.0] * 8


def test_a_slow_node_costs_less_than_with_serves_own_rule():
    assert Pool(SLOW).run(ours).p99_s < 0.75 * Pool(SLOW).run(by_own_count).p99_s


def test_old_numbers_do_not_make_a_herd():
    herd = Pool(EQUAL).run(least_reported)
    assert Pool(EQUAL).run(ours).largest < herd.largest / 3


def test_equal_nodes_lose_nothing():
    assert Pool(EQUAL).run(ours).p99_s <= 1.1 * Pool(EQUAL).run(by_own_count).p99_s


SYSTEM_PROMPT = "s" * 8 * CHUNK_CHARS


def test_a_system_prompt_before_all_requests_draws_them_nowhere():
    pool = Pool(EQUAL, [chunk_keys(SYSTEM_PROMPT)]).run(ours)
    fair = pool.num_sent.total() / 8
    assert all(pool.num_sent[i] == pytest.approx(fair, rel=0.1) for i in range(8))


def test_conversations_go_on_where_they_were_read():
    talks = [chunk_keys(SYSTEM_PROMPT + letter * 8 * CHUNK_CHARS) for letter in ascii_letters]
    seeing, blind = (Pool(EQUAL, talks, 0.7).run(one) for one in (ours, without_prompts))
    assert statistics.mean(seeing.waits) < 0.7 * statistics.mean(blind.waits)
