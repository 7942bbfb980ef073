from loadtest.counters import Counts, of_fleet, of_prometheus, pools
from loadtest.servers import Server

VLLM = """
# HELP vllm:spec_decode_num_drafts_total Number of spec decoding drafts.
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 3.0
vllm:spec_decode_num_drafts_total{engine="1",model_name="m"} 4.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 35.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 1.2e+01
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",position="0"} 7.0
vllm:generation_tokens_total{engine="0",model_name="m"} 20.0
"""


def test_vllms_series_are_summed_over_engines():
    assert of_prometheus(VLLM) == Counts(20, 7, 35, 12)


def test_a_server_without_speculation_counts_none():
    assert of_prometheus("vllm:generation_tokens_total 20.0\n") == Counts(20, -1, -1, -1)
    assert of_fleet({"targets": [{"stats": {}}]}) == Counts()


def test_targets_of_a_model_are_summed():
    stats = {"committed_tokens": 5, "verified_drafts": 2, "draft_tokens": 6, "accepted_tokens": 3}
    assert of_fleet({"targets": [{"stats": stats}, {"stats": stats}]}) == Counts(10, 4, 12, 6)


def drafting(*accepted: int) -> dict:
    by_position = {
        "admitted_by_position": [4, 2],
        "accepted_by_position": list(accepted),
        "expected_by_position": [2.5, 1.25],
    }
    totals = dict.fromkeys(("committed_tokens", "verified_drafts", "draft_tokens"), 6)
    return {"stats": totals | {"accepted_tokens": sum(accepted)} | by_position}


def test_positions_are_summed_and_differ_each():
    before = of_fleet({"targets": [drafting(1, 0)]})
    after = of_fleet({"targets": [drafting(3, 1), drafting(2, 1)]})
    assert after.expected_by_position == (5.0, 2.5)
    grown = after.since(before)
    assert grown.admitted_by_position == (4, 2)
    assert grown.accepted_by_position == (4, 2)
    assert grown.expected_by_position == (2.5, 1.25)


def test_positions_that_do_not_fit_together_are_counted_by_nobody():
    shorter = drafting(1, 0)
    shorter["stats"] |= {"accepted_by_position": [1]}
    mixed = of_fleet({"targets": [drafting(1, 0), shorter]})
    assert mixed.accepted_by_position == ()
    assert mixed.accepted_tokens == 2
    of_one = of_fleet({"targets": [shorter]})
    assert of_fleet({"targets": [drafting(1, 0)]}).since(of_one).accepted_by_position == ()


def test_replicas_of_both_pools_are_counted(monkeypatch):
    fleet = {"m": {"targets": [{}, {}], "drafters": [{}]}}
    monkeypatch.setattr("loadtest.counters.fleet_models", lambda *_: fleet)
    ours = Server("ours", "http://a", (), has_fleet=True)
    assert pools(ours, "m") == (2, 1)
    assert pools(Server("other", "http://a", ()), "m") == (1, 0)


def test_a_difference_needs_both_readings():
    assert Counts(9, 8, 7, 6).since(Counts(1, 2, 3, 4)) == Counts(8, 6, 4, 2)
    assert Counts(9, 8, 7, 6).since(Counts()) == Counts()
    assert Counts(1, 1, 1, 1).since(Counts(2, 1, 1, 1)) == Counts()
