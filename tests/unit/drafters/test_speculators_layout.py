"""Checkpoints made by the speculators package itself, against what its own code computes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from drafter_fixtures import TARGET_FIELDS, engine_of, fill, hashes
from safetensors.torch import load_file, save_file

from drafters import CheckpointError, DrafterConfig, load_drafter
from drafters.config import check_fit
from drafters.messages import StepBatch, StepRow

pytest.importorskip("speculators", reason="the speculators package is not installed")

VOCABULARY, DRAFT_VOCABULARY = 96, 40
CPU: Any = {"dtype": torch.float32, "device": "cpu"}
LENGTH = 12  # of the context
MASK = 3


@pytest.fixture(scope="module")
def target_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3 target with an LM head of its own."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    directory = tmp_path_factory.mktemp("target")
    torch.manual_seed(0)
    config = Qwen3Config(**{**TARGET_FIELDS, "tie_word_embeddings": False}, initializer_range=0.3)
    Qwen3ForCausalLM(config).save_pretrained(directory)
    return directory


def layer_config(family: str = "qwen3", **changes: Any) -> Any:
    from transformers import LlamaConfig, Qwen3Config

    fields = {k: v for k, v in TARGET_FIELDS.items() if k != "tie_word_embeddings"} | changes
    config = (LlamaConfig if family == "llama" else Qwen3Config)(**fields)
    config._attn_implementation = "eager"
    return config


def vocabulary_maps(size: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """t2d and d2t for a reduced vocabulary of every other token."""
    if size == VOCABULARY:
        return None, None
    chosen = torch.arange(size) * 2 + 1
    t2d = torch.zeros(VOCABULARY, dtype=torch.bool)
    t2d[chosen] = True
    return t2d, chosen - torch.arange(size)


def saved(kind: str, target_dir: Path, directory: Path, **fields: Any) -> Any:
    """A random model of the package, and its checkpoint in `directory`."""
    from speculators import SpeculatorModel, SpeculatorModelConfig
    from speculators.config import SpeculatorsConfig, VerifierConfig
    from speculators.proposals.greedy import GreedyTokenProposalConfig

    num_tokens = fields.pop("num_tokens", 4)
    described = SpeculatorsConfig(
        algorithm=kind,
        proposal_methods=[GreedyTokenProposalConfig(speculative_tokens=num_tokens)],
        default_proposal_method="greedy",
        verifier=VerifierConfig.from_pretrained(str(target_dir)),
    )
    config_class = SpeculatorModelConfig.registry[kind]
    config = config_class(speculators_config=described, **fields)
    model = SpeculatorModel.registered_model_class_from_config(config)(config)
    fill(model)
    for name in ("embed_tokens", "lm_head"):  # found to be missing, so read from the target
        torch.nn.init.constant_(getattr(model, name).weight, torch.nan)
    if hasattr(model, "load_vocab_mappings"):
        model.load_vocab_mappings(*vocabulary_maps(config.draft_vocab_size))
    model.load_verifier_weights()
    model.save_pretrained(directory)
    return model.eval()


def inputs(width: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features [length, width] and tokens [length + 1]."""
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(length, width, generator=generator)
    return features, torch.randint(0, VOCABULARY, (length + 1,), generator=generator)


def traced(directory: Path, target_dir: Path, features: torch.Tensor, tokens: torch.Tensor) -> Any:
    model = load_drafter(directory, **CPU, target_dir=target_dir)
    given = tuple(tokens[1:].tolist()) if model.config.needs_tokens else ()
    row = StepRow("r", 0, 0, len(features), int(tokens[-1]), 0, hashes(0, 0, 8), tokens=given)
    return engine_of(model).trace(StepBatch("t", (row,), features))


@pytest.mark.parametrize("from_anchor", [True, False])
@pytest.mark.parametrize("head", ["vanilla", "gated", "rnn"])
@pytest.mark.parametrize("size", [VOCABULARY, DRAFT_VOCABULARY])
def test_dspark(head: str, from_anchor: bool, size: int, target_dir: Path, tmp_path: Path) -> None:
    theirs = saved(
        "dspark",
        target_dir,
        tmp_path,
        transformer_layer_config=layer_config(num_hidden_layers=2),
        draft_vocab_size=size,
        block_size=5,
        aux_hidden_state_layer_ids=[0, 3],
        mask_token_id=MASK,
        sample_from_anchor=from_anchor,
        markov_rank=6,
        markov_head_type=head,
    )
    features, tokens = inputs(64, LENGTH)
    draft = traced(tmp_path, target_dir, features, tokens)
    gamma = 5 if from_anchor else 4
    assert draft.tokens.shape == (1, gamma)
    hidden, base = their_block(theirs, features, tokens, draft.tokens[0])
    known = torch.cat((tokens[-1:], draft.tokens[0]))[:5]
    previous = known if from_anchor else torch.cat((known[:1], known[:-1]))
    embeds = theirs.markov_head.prev_embeddings(previous[None])
    bias = theirs.markov_head.block_bias(
        prev_token_ids=previous[None], hidden_states=hidden[None], prev_emb=embeds
    )
    confidence = theirs.confidence_head(torch.cat((hidden[None], embeds), dim=-1))
    assert_close(draft.logits[0], (base + bias[0])[-gamma:])
    assert_close(draft.confidence_logits[0], confidence[0, -gamma:])
    assert_tokens(draft, theirs)


@pytest.mark.parametrize("size", [VOCABULARY, DRAFT_VOCABULARY])
@pytest.mark.parametrize("from_anchor", [True, False])
def test_dflash(from_anchor: bool, size: int, target_dir: Path, tmp_path: Path) -> None:
    theirs = saved(
        "dflash",
        target_dir,
        tmp_path,
        transformer_layer_config=layer_config(num_hidden_layers=2),
        draft_vocab_size=size,
        block_size=5,
        aux_hidden_state_layer_ids=[1, 2],
        mask_token_id=MASK,
        sample_from_anchor=from_anchor,
    )
    features, tokens = inputs(64, LENGTH)
    draft = traced(tmp_path, target_dir, features, tokens)
    _, base = their_block(theirs, features, tokens, draft.tokens[0])
    gamma = 5 if from_anchor else 4
    assert_close(draft.logits[0], base[-gamma:])
    assert_close(draft.confidences[0], base[-gamma:].softmax(-1).amax(-1))
    assert_tokens(draft, theirs)


def their_block(
    theirs: Any, features: torch.Tensor, tokens: torch.Tensor, drafted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The package's hidden states and base logits of the block at the anchor, [slots, ...]."""
    room = 2 * theirs.block_size  # it takes no anchor within a block of the end
    length = LENGTH + room
    texts = torch.zeros(1, length, dtype=torch.long)
    texts[0, : LENGTH + 1] = tokens
    texts[0, LENGTH + 1 : LENGTH + 1 + len(drafted)] = drafted
    padded = torch.zeros(1, length, features.shape[1])
    padded[0, :LENGTH] = features
    is_anchor = torch.zeros(1, length)
    is_anchor[0, LENGTH] = 1
    with torch.no_grad():
        hidden, logits, *_ = theirs._backbone_forward(
            padded,
            texts,
            is_anchor,
            torch.zeros(1, length, 32),
            torch.zeros(1, length, dtype=torch.long),
            max_anchors=1,
        )
    return hidden[0], logits[0]


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        ("qwen3", {}),
        ("llama", {}),
        ("qwen3", {"norm_before_residual": True}),
        ("qwen3", {"norm_before_fc": True, "norm_output": True}),
        ("llama", {"fc_norm": True}),
    ],
)
@pytest.mark.parametrize("size", [VOCABULARY, DRAFT_VOCABULARY])
def test_eagle3(
    family: str, variant: dict[str, Any], size: int, target_dir: Path, tmp_path: Path
) -> None:
    theirs = saved(
        "eagle3",
        target_dir,
        tmp_path,
        transformer_layer_config=layer_config(family, num_hidden_layers=1),
        draft_vocab_size=size,
        eagle_aux_hidden_state_layer_ids=[0, 2, 3],
        **variant,
    )
    features, tokens = inputs(96, LENGTH)
    draft = traced(tmp_path, target_dir, features, tokens)
    room = torch.zeros(4, 96)
    text = torch.cat((tokens[1:], draft.tokens[0]))  # each paired with the feature before it
    with listening(theirs.lm_head) as logits, torch.no_grad():
        theirs(
            torch.cat((features, room))[None],
            text[None],
            torch.zeros(1, len(text), dtype=torch.long),
            ttt_steps=4,
        )
    assert_close(draft.logits[0], torch.stack([step[0, LENGTH - 1] for step in logits]))
    assert_tokens(draft, theirs)


def test_mtp(target_dir: Path, tmp_path: Path) -> None:
    theirs = saved(
        "mtp",
        target_dir,
        tmp_path,
        num_tokens=3,
        transformer_layer_config=layer_config(num_hidden_layers=4),
    )
    features, tokens = inputs(32, LENGTH)
    draft = traced(tmp_path, target_dir, features, tokens)
    text = torch.cat((tokens, draft.tokens[0], draft.tokens[0, :1]))
    room = torch.zeros(len(text) - LENGTH, 32)
    with listening(theirs.lm_head) as logits, torch.no_grad():
        theirs(text[None], torch.cat((features, room))[None])
    # Their later steps run over the text shifted by one, ours over the context and what was
    # drafted: only the first is the same computation.
    assert_close(draft.logits[0, 0], logits[0][0, LENGTH - 1])
    assert draft.tokens.shape == (1, 3)


class listening:  # noqa: N801 - reads as a statement
    """What a module gives out while its owner runs."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module

    def __enter__(self) -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = []
        self._hook = self._module.register_forward_hook(
            lambda module, args, output: outputs.append(output)
        )
        return outputs

    def __exit__(self, *error: object) -> None:
        self._hook.remove()


def assert_close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def assert_tokens(draft: Any, theirs: Any) -> None:
    """Drafted tokens are the target's ids of the likeliest draft tokens."""
    best = draft.logits[0].argmax(-1)
    if theirs.d2t is not None:
        best = best + theirs.d2t[best]
    assert torch.equal(draft.tokens[0], best)


@pytest.fixture
def reduced(target_dir: Path, tmp_path: Path) -> Path:
    saved(
        "eagle3",
        target_dir,
        tmp_path,
        transformer_layer_config=layer_config(num_hidden_layers=1),
        draft_vocab_size=DRAFT_VOCABULARY,
        eagle_aux_hidden_state_layer_ids=[0, 2, 3],
    )
    return tmp_path


def test_sampled_tokens_of_a_reduced_vocabulary_are_the_targets(
    reduced: Path, target_dir: Path
) -> None:
    model = load_drafter(reduced, **CPU, target_dir=target_dir)
    features, tokens = inputs(96, LENGTH)
    given = tuple(tokens[1:].tolist())
    row = StepRow("r", 0, 0, LENGTH, int(tokens[-1]), temperature=1.5, tokens=given)
    draft = engine_of(model).step([StepBatch("t", (row,), features)])[0]
    assert draft.distribution is not None
    assert bool((draft.distribution.token_ids % 2 == 1).all())
    assert bool((draft.distribution.prob_of(draft.tokens) > 0).all())
    assert bool((draft.tokens % 2 == 1).all())


def test_a_missing_reduced_head_is_made_of_the_targets_rows(
    reduced: Path, target_dir: Path
) -> None:
    tensors = load_file(reduced / "model.safetensors")
    stored = tensors.pop("lm_head.weight")
    save_file(tensors, reduced / "model.safetensors")
    model: Any = load_drafter(reduced, **CPU, target_dir=target_dir)
    assert torch.equal(model.lm_head.weight, stored)


def test_a_vocabulary_map_out_of_range_is_refused(reduced: Path, target_dir: Path) -> None:
    tensors = load_file(reduced / "model.safetensors")
    tensors["d2t"][-1] += 100
    save_file(tensors, reduced / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"d2t leads to tokens 1 to 179; vocab_size is 96"):
        load_drafter(reduced, **CPU, target_dir=target_dir)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"speculators_model_type": "peagle"}, "speculators_model_type is 'peagle'; needed"),
        ({"draft_vocab_size": 97}, "draft_vocab_size is 97; it must be at most vocab_size, 96"),
        ({"eagle_aux_hidden_state_layer_ids": None}, "needed: a list of integers"),
        ({"eagle_aux_hidden_state_layer_ids": [2, 1, 3]}, r"target_layer_ids is \[1, 0, 2\]"),
        ({"target_hidden_size": 48}, "target_hidden_size is 48"),
        ({"transformer_layer_config": 5}, "transformer_layer_config is 5"),
        ({"transformer_layer_config": {"model_type": "mamba"}}, "model_type is 'mamba'"),
        ({"transformer_layer_config": {"hidden_size": "x"}}, "not a qwen3 config"),
        ({"speculators_config": {"proposal_methods": []}}, "proposal_methods is"),
        ({"speculators_config": {"verifier": 5}}, "verifier is 5"),
        ({"speculators_config": {"verifier": {"name_or_path": 5}}}, "name_or_path is 5"),
        ({"speculators_config": {"verifier": {"architectures": "x"}}}, "architectures is 'x'"),
    ],
)
def test_bad_config_field_is_named(reduced: Path, change: dict[str, Any], message: str) -> None:
    fields = json.loads((reduced / "config.json").read_text()) | change
    with pytest.raises(CheckpointError, match=message):
        DrafterConfig.from_dict(fields, "some/config.json")


def test_layers_that_the_target_lacks_are_named(reduced: Path, target_dir: Path) -> None:
    path = reduced / "config.json"
    fields = json.loads(path.read_text()) | {"eagle_aux_hidden_state_layer_ids": [1, 2, 4]}
    path.write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r"target_layer_ids is \[0, 1, 3\].* to 2"):
        load_drafter(reduced, **CPU, target_dir=target_dir)


def target_like(target_dir: Path, directory: Path, **changes: Any) -> Path:
    """A copy of the target with other fields in its config: all sizes are the same."""
    shutil.copytree(target_dir, directory)
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return directory


def test_a_target_of_another_architecture_is_refused_though_all_sizes_fit(
    reduced: Path, target_dir: Path, tmp_path: Path
) -> None:
    other = target_like(target_dir, tmp_path / "other", architectures=["LlamaForCausalLM"])
    with pytest.raises(
        CheckpointError,
        match=r"verifier\.architectures is \['Qwen3ForCausalLM'\], but the target's "
        r"architectures is \['LlamaForCausalLM'\]",
    ):
        load_drafter(reduced, **CPU, target_dir=other)


def test_a_target_of_another_name_is_warned_of(
    reduced: Path, target_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load_drafter(reduced, **CPU, target_dir=target_dir)
    assert not caplog.messages
    load_drafter(reduced, **CPU, target_dir=target_like(target_dir, tmp_path / "fine-tuned"))
    (message,) = caplog.messages
    assert f"verifier.name_or_path is {target_dir}, the target is {tmp_path}/fine-tuned" in message


@pytest.mark.parametrize("target", ["some/Model-8B", "/models/model-8b/", None])
def test_a_name_counts_without_its_owner(
    reduced: Path, target: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    fields = json.loads((reduced / "config.json").read_text())
    fields["speculators_config"]["verifier"] = {"name_or_path": "other/Model-8B"}
    check_fit(DrafterConfig.from_dict(fields, "some/config.json"), TARGET_FIELDS, target)
    assert not caplog.messages


def test_sliding_window_layers_are_refused(reduced: Path) -> None:
    fields = json.loads((reduced / "config.json").read_text())
    fields["transformer_layer_config"] |= {
        "layer_types": ["sliding_attention"],
        "use_sliding_window": True,
        "sliding_window": 8,
    }
    with pytest.raises(CheckpointError, match="layer_types is"):
        DrafterConfig.from_dict(fields, "some/config.json")
