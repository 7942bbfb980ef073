"""Sessions of one target at two drafters: who gets what, and what comes back together."""

from __future__ import annotations

import time

import pytest
import torch

from drafters.canary_source import CanarySource
from drafters.messages import DraftBatch, SparseDistribution, StepBatch, StepRow
from drafters.server import DraftServer
from drafters.sources import RemoteDraftSource

GAMMA, SECRET = 3, "s"


class Marking:
    """Drafts `mark` for every row that wants a draft, and keeps what it is sent."""

    def __init__(self, mark, with_q=False, delay_s=0.0):
        self.mark, self.with_q, self.delay_s = mark, with_q, delay_s
        self.batches = []

    def step(self, batches):
        time.sleep(self.delay_s)
        self.batches += batches
        return [self._drafts(batch.num_drafts) for batch in batches]

    def _drafts(self, n):
        tokens = torch.full((n, GAMMA), self.mark)
        q = None
        if self.with_q:
            ids = torch.stack((tokens, tokens + 1), dim=-1)
            q = SparseDistribution(ids, torch.tensor([0.75, 0.25]).expand(ids.shape))
        return DraftBatch(tokens, torch.full((n, GAMMA), 0.5), q)


@pytest.fixture
def servers():
    started = []

    def start(drafter):
        server = DraftServer(drafter, host="127.0.0.1", secret=SECRET)
        server.start()
        started.append(server)
        return server.address

    yield start
    for server in started:
        server.stop()


def source(address, deadline_s=5.0):
    return RemoteDraftSource(deadline_s=deadline_s, secret=SECRET, address=address)


def batch(*names, closed=(), anchor=7):
    rows = tuple(StepRow(name, 1, 0, 1, anchor) for name in names)
    features = torch.arange(len(rows)).float()[:, None].repeat(1, 2)
    return StepBatch("t", rows, features, closed)


def joins(request_id):
    return request_id.startswith("new")


def pair(servers, serving, canary, known=(), waited=lambda *_: None, deadline_s=5.0):
    one, other = source(servers(serving)), source(servers(canary), deadline_s)
    return CanarySource(one, other, joins, known, waited)


def test_each_session_is_drafted_for_by_its_own_drafter(servers):
    serving, canary = Marking(1), Marking(2)
    told = []
    both = pair(servers, serving, canary, waited=lambda side, wait_s: told.append(side))
    drafts = both.draft(batch("old a", "new b", "old c"))
    assert drafts.tokens[:, 0].tolist() == [1, 2, 1]
    assert drafts.answered is None
    assert [row.request_id for row in serving.batches[0].rows] == ["old a", "old c"]
    assert serving.batches[0].features[:, 0].tolist() == [0, 2]
    assert canary.batches[0].features[:, 0].tolist() == [1]
    assert sorted(told) == [False, True]
    assert both.canary_ids == {"new b"}


def test_a_session_that_the_serving_drafter_has_stays_with_it(servers):
    serving, canary = Marking(1), Marking(2)
    both = pair(servers, serving, canary, known=["new b"])
    assert both.draft(batch("new b", "new c")).tokens[:, 0].tolist() == [1, 2]


def test_a_session_stays_where_it_began_whatever_becomes_of_the_share(servers):
    both = pair(servers, Marking(1), Marking(2))
    both.draft(batch("new a", "old b"))
    both.joins = lambda request_id: not joins(request_id)
    assert both.draft(batch("new a", "old b", "new c")).tokens[:, 0].tolist() == [2, 1, 1]


def test_of_a_canary_that_does_not_answer_the_rows_are_marked(servers):
    both = pair(servers, Marking(1), Marking(2, delay_s=1.0), deadline_s=0.05)
    drafts = both.draft(batch("old a", "new b"))
    assert drafts.answered.tolist() == [True, False]
    assert drafts.confidences.tolist() == [[0.5] * GAMMA, [0.0] * GAMMA]


def test_of_distributions_one_may_be_missing(servers):
    both = pair(servers, Marking(1), Marking(2, with_q=True))
    q = both.draft(batch("old a", "new b")).distribution
    assert q.token_ids[:, 0].tolist() == [[1, 0], [2, 3]]
    assert q.probs[:, 0].tolist() == [[1.0, 0.0], [0.75, 0.25]]


def test_closing_reaches_the_drafter_that_has_the_session(servers):
    serving, canary = Marking(1), Marking(2)
    both = pair(servers, serving, canary)
    both.draft(batch("old a", "new b"))
    both.draft(batch("old c", "new d", closed=("new b", "old a")))
    assert serving.batches[1].closed == ("old a",)
    assert canary.batches[1].closed == ("new b",)
    assert both.canary_ids == {"new d"}


def test_without_a_draft_wanted_features_go_to_both(servers):
    serving, canary = Marking(1), Marking(2)
    both = pair(servers, serving, canary)
    both.draft(batch("old a", "new b"))
    assert both.draft(batch("old a", "new b", anchor=None)) is None
    deadline = time.monotonic() + 5
    while len(serving.batches) + len(canary.batches) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [row.request_id for row in canary.batches[1].rows] == ["new b"]
