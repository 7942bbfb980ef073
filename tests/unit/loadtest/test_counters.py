from loadtest.counters import Counts, of_fleet, of_prometheus

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


def test_a_difference_needs_both_readings():
    assert Counts(9, 8, 7, 6).since(Counts(1, 2, 3, 4)) == Counts(8, 6, 4, 2)
    assert Counts(9, 8, 7, 6).since(Counts()) == Counts()
    assert Counts(1, 1, 1, 1).since(Counts(2, 1, 1, 1)) == Counts()
