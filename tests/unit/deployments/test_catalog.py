import pytest

from deployments.catalog import gemma4, qwen3
from deployments.catalog.deepseek_v4 import DEEPSEEK_V4_FLASH, DEEPSEEK_V4_PRO
from deployments.catalog.gemma4 import GEMMA4_12B
from deployments.catalog.qwen3 import QWEN3_4B, QWEN3_8B, QWEN3_14B
from deployments.kv_layout import KvLayers, kv_layers, sequence_bytes
from drafters.config import DrafterConfig, check_fit


@pytest.mark.parametrize(
    ("model", "parameters"),
    [(QWEN3_4B, 4_022_468_096), (QWEN3_8B, 8_190_735_360), (QWEN3_14B, 14_768_307_200)],
)
def test_the_config_accounts_for_every_byte_of_the_index(model, parameters):
    assert qwen3.num_parameters(model.target.config) == parameters
    assert model.target.num_bytes == 2 * parameters


@pytest.mark.parametrize(
    ("checkpoint", "billions"),
    [
        (QWEN3_4B.drafter, 1.39),
        (QWEN3_8B.drafter, 2.37),
        (QWEN3_14B.drafter, 3.42),
        (GEMMA4_12B.drafter, 3.43),
    ],
)
def test_drafters_have_the_parameters_the_hub_shows(checkpoint, billions):
    assert round(checkpoint.num_bytes / 2e9, 2) == billions
    assert not checkpoint.measured


def test_gemmas_text_tower():
    assert gemma4.num_parameters(GEMMA4_12B.target.config["text_config"]) == 11_907_350_320


@pytest.mark.parametrize("model", [QWEN3_4B, QWEN3_8B, QWEN3_14B], ids=lambda m: m.name)
def test_our_draft_engine_reads_the_qwen_drafters_and_finds_that_they_fit(model):
    config = DrafterConfig.from_dict(model.drafter.config, model.drafter.hub_id)
    check_fit(config, model.target.config)
    assert (config.block_size, config.markov_rank) == (7, 256)


@pytest.mark.parametrize(
    ("config", "bytes_per_token"),
    [
        (QWEN3_4B.target.config, 147_456),
        (QWEN3_14B.target.config, 163_840),
        (QWEN3_4B.drafter.config, 20_480),
        (GEMMA4_12B.drafter.config, 10_240),
    ],
)
def test_kv_of_one_token(config, bytes_per_token):
    assert sequence_bytes(kv_layers(config), 1000, 1) == 1000 * bytes_per_token


def test_kv_is_divided_by_at_most_the_heads():
    layers = kv_layers(QWEN3_14B.target.config)
    assert sequence_bytes(layers, 100, 8) == sequence_bytes(layers, 100, 16) == 2_048_000


def test_sliding_windows_stop_growing():
    (local, full) = kv_layers(GEMMA4_12B.target.config)
    assert local.sequence_bytes(10_000, 1) == local.sequence_bytes(1024, 1) == 1024 * 327_680
    assert full.sequence_bytes(10_000, 1) == 10_000 * 16_384


@pytest.mark.parametrize(
    ("model", "windowed", "per_4_tokens", "per_128_tokens"),
    [(DEEPSEEK_V4_FLASH, 46, 21, 20), (DEEPSEEK_V4_PRO, 64, 30, 31)],
    ids=lambda value: getattr(value, "name", None),
)
def test_deepseek_compresses_what_is_behind_the_window(
    model, windowed, per_4_tokens, per_128_tokens
):
    window, four, hundred, *_ = kv_layers(model.target.config)
    assert window == KvLayers(windowed, 584, window_tokens=128)
    assert four == KvLayers(per_4_tokens, 716, tokens_per_entry=4)
    assert hundred == KvLayers(per_128_tokens, 584, tokens_per_entry=128)
    assert four.sequence_bytes(400, 8) == per_4_tokens * 100 * 716  # every rank holds all


def test_an_unknown_model_type_is_not_guessed_at():
    assert kv_layers({"model_type": "mamba"}) is None
