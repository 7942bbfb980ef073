import pytest

from deployments.engine.accounting import RowAccount, account


@pytest.mark.parametrize(
    ("num_scheduled", "num_drafts", "sampled", "expected"),
    [
        (1, 0, [9], RowAccount(1, 9, 0, 0)),  # plain decoding
        (13, 0, [9], RowAccount(13, 9, 0, 0)),  # a whole prompt
        (512, 0, [], RowAccount(512, None, 0, 0)),  # a chunk of a prompt
        (8, 7, [9], RowAccount(1, 9, 7, 0)),  # every draft rejected
        (8, 7, [1, 2, 9], RowAccount(3, 9, 7, 2)),  # two accepted, then the target's own
        (8, 7, [1, 2, 3, 4, 5, 6, 7, 9], RowAccount(8, 9, 7, 7)),  # all accepted and a bonus token
        (4, 3, [1, 9], RowAccount(2, 9, 3, 1)),
    ],
)
def test_valid_rows_and_anchor(num_scheduled, num_drafts, sampled, expected):
    assert account(num_scheduled, num_drafts, sampled) == expected
