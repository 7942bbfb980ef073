import torch

from deployments.engine.backlog import FeatureBacklog
from drafters.messages import StepBatch, StepRow


def step(*rows, closed=(), anchors=False):
    """A batch of (id, epoch, start, num_rows); a row's features are its positions."""
    made = tuple(
        StepRow(id_, epoch, start, n, 7 if anchors else None, start, (b"%d" % start,))
        for id_, epoch, start, n in rows
    )
    positions = [p for _, _, start, n in rows for p in range(start, start + n)]
    return StepBatch("t", made, torch.tensor(positions).float()[:, None], closed)


def sent(batches):
    return [
        (
            [(r.request_id, r.epoch, r.start, r.num_rows, r.block_hashes) for r in b.rows],
            b.features[:, 0].tolist(),
            b.closed,
        )
        for b in batches
    ]


def test_without_a_pause_a_step_goes_out_as_it_is():
    batch = step(("a", 1, 0, 3), closed=("z",), anchors=True)
    (out,) = FeatureBacklog().take(batch, hold=False)
    assert out.rows == batch.rows
    assert out.closed == ("z",)
    assert torch.equal(out.features, batch.features)


def test_held_steps_go_out_as_one_before_the_next_request():
    backlog = FeatureBacklog()
    assert backlog.take(step(("a", 1, 4, 1), ("b", 1, 9, 2)), hold=True) == []
    assert backlog.take(step(("b", 1, 11, 1), ("a", 1, 5, 1)), hold=True) == []
    held, request = backlog.take(step(("a", 1, 6, 1), anchors=True), hold=False)
    assert sent([held]) == [
        (
            [("a", 1, 4, 2, (b"4", b"5")), ("b", 1, 9, 3, (b"9", b"11"))],
            [4, 5, 9, 10, 11],
            (),
        )
    ]
    assert held.num_drafts == 0
    assert [row.start for row in request.rows] == [6]


def test_enough_rows_go_out_by_themselves():
    backlog = FeatureBacklog(max_rows=4)
    assert backlog.take(step(("a", 1, 0, 3)), hold=True) == []
    (out,) = backlog.take(step(("a", 1, 3, 1)), hold=True)
    assert out.rows[0].num_rows == 4
    assert backlog.take(step(("a", 1, 4, 1)), hold=True) == []


def test_a_request_closes_behind_its_held_rows():
    backlog = FeatureBacklog()
    backlog.take(step(("a", 1, 0, 2)), hold=True)
    backlog.take(step(("b", 1, 0, 1), closed=("a", "gone")), hold=True)
    held, after = backlog.take(step(closed=("b",)), hold=False)
    assert held.closed == ("gone",)
    assert [row.request_id for row in held.rows] == ["a", "b"]
    assert after.closed == ("a", "b")


def test_closures_survive_a_release_by_size():
    backlog = FeatureBacklog(max_rows=2)
    backlog.take(step(("a", 1, 0, 1)), hold=True)
    (first,) = backlog.take(step(("b", 1, 0, 1), closed=("a",)), hold=True)
    assert first.closed == ()
    (second,) = backlog.take(step(("b", 1, 1, 2)), hold=True)
    assert second.closed == ("a",)


def test_a_row_of_a_new_epoch_does_not_join_the_old_ones():
    backlog = FeatureBacklog()
    backlog.take(step(("a", 1, 0, 8)), hold=True)
    (first,) = backlog.take(step(("a", 2, 4, 2), closed=("a",)), hold=True)
    assert first.rows[0].epoch == 1
    second, _ = backlog.take(step(), hold=False)
    assert second.closed == ("a",)
    assert sent([second])[0][0] == [("a", 2, 4, 2, (b"4",))]


def test_rows_that_do_not_continue_go_out_apart():
    backlog = FeatureBacklog()
    backlog.take(step(("a", 1, 0, 2)), hold=True)
    (first,) = backlog.take(step(("a", 1, 3, 1)), hold=True)
    assert first.rows[0].end == 2
