"""Servers of others, given the same target: vLLM, `ray.serve.llm`, llama.cpp, any endpoint."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from loadtest.arms import LLAMA_CPP, OPENAI, Arm, Gpus
from loadtest.draft_model import draft_model_speculation
from loadtest.servers import Server

_MIB = 1 << 20
_NGRAM = {
    "method": "ngram",
    "num_speculative_tokens": 5,
    "prompt_lookup_max": 4,
    "prompt_lookup_min": 2,
}
_SPECULATION: dict[str, dict[str, Any] | None] = {"vllm": None, "vllm-ngram": _NGRAM}
DRAFTS_WITH_A_MODEL = "vllm-draft-model"
PEERS = (*_SPECULATION, DRAFTS_WITH_A_MODEL, "ray-serve-llm", "llama-cpp")
"""`vllm`: `vllm serve` as it is; `vllm-ngram`: with its n-gram speculation; `vllm-draft-model`:
with its speculation by a smaller model; `ray-serve-llm`: the stock application, unmodified;
`llama-cpp`: its Python package's server, one request at a time. All with the target's checkpoint
and settings, for the rest with their own defaults."""


@contextmanager
def peer_server(
    name: str, target: Mapping[str, Any], port: int, draft_model: Path | None = None
) -> Iterator[Server]:
    """One of `PEERS` with the `target` of a Serve file; `draft_model` is a checkpoint's directory.

    Raises ValueError for another name, for a target that it could only serve otherwise, and for a
    draft model that is missing or that vLLM could not draft with.
    """
    if name in PEERS:
        _check_can_serve(name, target)
    if name in _SPECULATION:
        yield _vllm(name, target, port, _SPECULATION[name])
    elif name == DRAFTS_WITH_A_MODEL:
        if draft_model is None:
            raise ValueError(f"peer {name} drafts with a model: give its directory, --draft-model")
        yield _vllm(name, target, port, draft_model_speculation(draft_model, target))
    elif name == "llama-cpp":
        with tempfile.TemporaryDirectory(prefix="dspark-bench-") as directory:
            yield _llama_cpp(name, target, port, Path(directory) / "target.gguf")
    elif name == "ray-serve-llm":
        with tempfile.TemporaryDirectory(prefix="dspark-bench-") as directory:
            yield _ray_serve_llm(name, target, port, Path(directory) / "serve.yaml")
    else:
        raise ValueError(f"no peer {name!r}; there are {', '.join(PEERS)}")


def endpoint_server(text: str) -> Server:
    """`NAME=URL#MODEL`: a server that runs already, at its address without `/v1`.

    Raises ValueError where it is written otherwise.
    """
    name, _, rest = text.partition("=")
    url, _, model = rest.partition("#")
    if not (name and model and url.startswith(("http://", "https://"))):
        raise ValueError(f"{text!r}: write NAME=URL#MODEL, as in other=http://10.0.0.7:8000#qwen3")
    url = url.rstrip("/").removesuffix("/v1")
    return Server(url, url, (Arm(model, label=name, dialect=OPENAI, gpus=None),))


def _vllm(
    name: str, target: Mapping[str, Any], port: int, speculation: Mapping[str, Any] | None
) -> Server:
    """By its module: the console script of the processors' build lacks its metadata."""
    arguments = [
        *("--model", str(target["source"]), "--served-model-name", name),
        *("--host", "127.0.0.1", "--port", str(port)),
        *(part for key, value in _engine_kwargs(target).items() for part in _flags(key, value)),
    ]
    if speculation is not None:
        arguments += ["--speculative-config", json.dumps(speculation)]
    return Server(
        description=" ".join(["vllm serve", *arguments]),
        url=f"http://127.0.0.1:{port}",
        arms=(Arm(name, gpus=_gpus(target)),),
        command=(sys.executable, "-m", "vllm.entrypoints.openai.api_server", *arguments),
        env=_env(target),
    )


def _ray_serve_llm(name: str, target: Mapping[str, Any], port: int, path: Path) -> Server:
    config: dict[str, Any] = {
        "model_loading_config": {"model_id": name, "model_source": str(_source(target))},
        "deployment_config": {"num_replicas": 1},
        "engine_kwargs": _engine_kwargs(target),
        "runtime_env": {"env_vars": _env(target)},
    }
    if target.get("device", "cpu") == "cpu":
        # Half a logical processor each, so that Ray places replica and ingress on two cores.
        config |= {
            "accelerator_config": {"kind": "cpu"},
            "placement_group_config": {"bundles": [{"CPU": 0.5}]},
            "deployment_config": {"num_replicas": 1, "ray_actor_options": {"num_cpus": 0.5}},
        }
    application = {
        "name": name,
        "route_prefix": "/",
        "import_path": "ray.serve.llm:build_openai_app",
        "args": {"llm_configs": [config]},
    }
    http = {"host": "127.0.0.1", "port": port}
    told = json.dumps(config["engine_kwargs"])
    path.write_text(yaml.safe_dump({"http_options": http, "applications": [application]}))
    return Server(
        description=f"serve run ray.serve.llm:build_openai_app {told}",
        url=f"http://127.0.0.1:{port}",
        arms=(Arm(name, gpus=_gpus(target)),),
        command=(str(Path(sys.executable).with_name("serve")), "run", str(path)),
        env=_env(target),
    )


def _llama_cpp(name: str, target: Mapping[str, Any], port: int, path: Path) -> Server:
    if not all(find_spec(package) for package in ("llama_cpp", "gguf")):
        raise ValueError(f"peer {name} needs packages: uv pip install '.[peers]'")
    from loadtest.llama_cpp import export_gguf

    export_gguf(Path(str(target["source"])), path)
    threads = target.get("threads", 1)
    options = {
        "model": path,
        "model_alias": name,
        "host": "127.0.0.1",
        "port": port,
        "n_ctx": target.get("max_model_len", 2048),
        "n_threads": threads,
        "n_threads_batch": threads,
        "interrupt_requests": "false",  # else an answer ends where another request waits
    }
    arguments = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return Server(
        description=f"llama_cpp.server, float32, {threads} thread(s)",
        url=f"http://127.0.0.1:{port}",
        arms=(Arm(name, dialect=LLAMA_CPP),),
        command=(sys.executable, "-m", "llama_cpp.server", *arguments),
        env=_env(target),
    )


def _source(target: Mapping[str, Any]) -> str:
    """A local checkpoint by its absolute path, as replicas run elsewhere."""
    source = Path(str(target["source"]))
    return str(source.resolve()) if source.exists() else str(source)


_STATED = ("dtype", "max_model_len", "max_num_seqs", "kv_cache_mib")
_NOT_OF_LLAMA_CPP = ("revision", "engine_kwargs")


def _check_can_serve(name: str, target: Mapping[str, Any]) -> None:
    """Raises ValueError where a peer would serve something else than our arms."""
    device = target.get("device", "cpu")
    stated = (*_STATED, "threads") if device == "cpu" else _STATED
    if left_out := [key for key in stated if key not in target]:
        raise ValueError(
            f"peer {name}: state target.{', target.'.join(left_out)} in the Serve file; where it "
            "is left out, a peer's default is another than ours"
        )
    if target.get("nodes", 1) > 1:
        raise ValueError(f"peer {name} serves on one node, not on target.nodes {target['nodes']}")
    if name != "llama-cpp":
        return
    for key, only in (("device", "cpu"), ("dtype", "float32"), ("tensor_parallel", 1)):
        if target.get(key, only) != only:
            raise ValueError(
                f"peer {name} serves {key} {only} alone, not target.{key} {target[key]}"
            )
    if other := [key for key in _NOT_OF_LLAMA_CPP if target.get(key)]:
        raise ValueError(f"peer {name} has no target.{', target.'.join(other)}")


def _engine_kwargs(target: Mapping[str, Any]) -> dict[str, Any]:
    """What vLLM is told of a target in every server alike; as in ours, its own `engine_kwargs`
    win. Everything else is the peer's default."""
    revision = target.get("revision")
    kwargs = {
        "dtype": target["dtype"],
        "max_model_len": target["max_model_len"],
        "max_num_seqs": target["max_num_seqs"],
        "kv_cache_memory_bytes": target["kv_cache_mib"] * _MIB,
        "tensor_parallel_size": target.get("tensor_parallel"),
        "revision": revision,
        "tokenizer_revision": revision,
        **target.get("engine_kwargs", {}),
    }
    return {key: value for key, value in kwargs.items() if value is not None}


def _gpus(target: Mapping[str, Any]) -> Gpus:
    """One for every rank: peers share none."""
    ranks = _engine_kwargs(target).get("tensor_parallel_size", 1)
    return Gpus(float(ranks) if target.get("device", "cpu") == "cuda" else 0.0)


def _env(target: Mapping[str, Any]) -> dict[str, str]:
    """As many threads as our target's (bound to cores, vLLM would choose their number itself),
    and the environment that the Serve file gives it."""
    env = {}
    if "threads" in target:
        env = {"OMP_NUM_THREADS": str(target["threads"]), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return {**env, **target.get("env", {})}


def _flags(key: str, value: Any) -> list[str]:
    """One engine argument as vLLM's command line takes it."""
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    if isinstance(value, Mapping):
        return [f"--{name}", json.dumps(value)]
    return [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
