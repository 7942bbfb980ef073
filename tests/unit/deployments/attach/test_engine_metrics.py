"""What vLLM and SGLang say of themselves, from their own expositions."""

from deployments.attach.engine_metrics import EngineReading, read_metrics
from tests.unit.deployments.attach.scripted_engine import VLLM_METRICS

SGLANG = """\
sglang:num_running_reqs{engine_type="unified",model_name="m",tp_rank="0",pp_rank="0"} 4.0
sglang:num_running_reqs{engine_type="unified",model_name="m",tp_rank="1",pp_rank="0"} 4.0
sglang:num_queue_reqs{engine_type="unified",model_name="m",tp_rank="0",pp_rank="0"} 2.0
sglang:token_usage{engine_type="unified",model_name="m",tp_rank="0",pp_rank="0"} 0.28
sglang:max_total_num_tokens{engine_type="unified",model_name="m",tp_rank="0"} 65536.0
sglang:prompt_tokens_total{model_name="m"} 8.128902e+06
sglang:generation_tokens_total{model_name="m"} 7.5e+06
sglang:realtime_tokens_total{model_name="m",mode="decode"} 7.0
sglang:realtime_tokens_total{model_name="m",mode="prefill_compute"} 9.0
sglang:spec_accept_length{engine_type="unified",model_name="m",tp_rank="0"} 2.75
"""


def test_vllms_engines_behind_one_address_are_added_up_and_usage_is_their_mean():
    assert read_metrics(VLLM_METRICS) == EngineReading(
        "vllm",
        running=5,
        waiting=1,
        kv_usage=0.5,
        kv_tokens=6400,
        prompt_tokens=40,
        committed_tokens=120,
        verified_drafts=30,
        draft_tokens=210,
        accepted_tokens=60,
    )


def test_sglang_says_a_length_where_vllm_counts_and_its_rank_0_stands_for_all():
    assert read_metrics(SGLANG) == EngineReading(
        "sglang",
        running=4,
        waiting=2,
        kv_usage=0.28,
        kv_tokens=65536,
        prompt_tokens=8128902,
        committed_tokens=7500000,
        acceptance_length=2.75,
        realtime_tokens=16,
    )


def test_an_older_vllm_names_its_cache_otherwise_and_one_that_does_not_draft_counts_none():
    reading = read_metrics('vllm:gpu_cache_usage_perc{model_name="m"} 0.5\n')
    assert reading == EngineReading("vllm", kv_usage=0.5)
    assert reading.counted() == {}


def test_counts_stand_under_the_names_of_our_own_adapter():
    assert read_metrics(VLLM_METRICS).counted() == {
        "requests": 5,
        "committed_tokens": 120,
        "verified_drafts": 30,
        "draft_tokens": 210,
        "accepted_tokens": 60,
    }


def test_an_engine_makes_progress_whoever_it_works_for():
    assert read_metrics(SGLANG).progress == 8128902 + 7500000 + 16
    assert read_metrics("vllm:num_requests_running 1").progress == 0


def test_what_is_no_number_is_left_out():
    text = "vllm:num_requests_running NaN\nvllm:num_requests_waiting x\nvllm:kv_cache_usage_perc 1"
    assert read_metrics(text) == EngineReading("vllm", kv_usage=1)


def test_other_programs_metrics_say_nothing():
    assert read_metrics("http_requests_total 5\nmy_vllm:num_requests_running 4\n") is None
