"""Where replicas run and with what environment, as Ray takes it. Pure.

`ray.serve.llm` runs ranks on GPUs as Ray actors (vLLM's Ray executor), one bundle each,
whether they share a node or not. Ranks on processors are processes of the replica's node
(vLLM's multi-process executor); over several nodes they are Ray actors too, which takes
nodes with pretended GPUs, one per rank (`deployments.engine.ray_platform`).
"""

from __future__ import annotations

from typing import Any

from cluster.observability.samples import PoolSizes
from deployments.engine.rank_queues import SPIN_MS
from deployments.engine.ray_platform import SWITCH as CPU_OVER_RAY
from deployments.schema import DRAFTED_BY_US, AppSpec, AttachedModelSpec, ModelSpec
from deployments.specs import DrafterSpec, ReplicaSpec, ScalingSpec, TargetSpec
from deployments.tracing.spec import TracingSpec

INGRESS_CPUS = 0.1
# A replica that died is found by the next health check; the default is one in ten seconds.
PROMPTLY_REPLACED: dict[str, Any] = {"health_check_period_s": 1, "health_check_timeout_s": 10}
# How long ranks watch for work before they sleep. On processors watching takes the time of who
# computes; on GPUs it lasts from step to step, but not from exchange to exchange with the fleet.
_RANK_SPIN_MS = {"cpu": "2", "cuda": "50"}
QUIET = {"enable_access_log": False}  # of a deployment: a line per handle call otherwise


def replica_counts(replicas: int, scaling: ScalingSpec | None) -> dict[str, Any]:
    """Of a pool, as options of its Serve deployment.

    What Serve scales by without our policy is the number of requests.
    """
    if scaling is None:
        return {"num_replicas": replicas}
    return {
        "autoscaling_config": {
            "min_replicas": scaling.least,
            "initial_replicas": replicas,
            "max_replicas": scaling.most,
            "upscale_delay_s": scaling.up_after_s,
            "downscale_delay_s": scaling.down_after_s,
            "look_back_period_s": 5.0,
            "metrics_interval_s": 1.0,
        }
    }


def most_replicas(spec: ReplicaSpec) -> int:
    return spec.replicas if spec.scaling is None else spec.scaling.most


def pool_sizes(model: ModelSpec | AttachedModelSpec) -> PoolSizes:
    """Replicas that a model is never to have less of; drafters on trial are beside them."""
    if isinstance(model, AttachedModelSpec):
        return PoolSizes(len(model.attach.url), 0)
    drafters = 0
    if model.placement == "split" and model.drafter is not None:
        drafters = _least_replicas(model.drafter)
    return PoolSizes(_least_replicas(model.target), drafters)


def _least_replicas(spec: ReplicaSpec) -> int:
    return spec.replicas if spec.scaling is None else spec.scaling.least


def placement_group(target: TargetSpec) -> dict[str, Any]:
    """Bundles and strategy of one target replica; the replica itself shares the first."""
    if target.device == "cpu" and target.nodes == 1:
        bundle = {"CPU": target.num_cpus * target.tensor_parallel, **target.resources}
        return {"bundles": [bundle]}
    bundle = {"CPU": target.num_cpus, "GPU": target.gpus_per_rank, **target.resources}
    return {
        "bundles": [dict(bundle) for _ in range(target.tensor_parallel)],
        "strategy": _strategy(target),
    }


def _strategy(target: TargetSpec) -> str:
    if target.nodes == 1:
        return "STRICT_PACK"
    # Several ranks per node: Ray has no strategy for it, PACK fills one node after another.
    return "STRICT_SPREAD" if target.nodes == target.tensor_parallel else "PACK"


def target_env(model: ModelSpec, tracing: TracingSpec | None = None) -> dict[str, str]:
    """Environment of a target replica and its ranks; the settings' own wins."""
    env = {
        "OMP_NUM_THREADS": str(model.target.threads),
        "VLLM_NO_USAGE_STATS": "1",
        # vLLM's bound on a request's n is 16384: no request shall fill the queue by itself.
        "VLLM_MAX_N_SEQUENCES": str(model.target.max_num_seqs),
    }
    if model.target.tensor_parallel > 1:
        env[SPIN_MS] = _RANK_SPIN_MS[model.target.device]
    if model.target.device == "cpu":
        env["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if model.target.nodes > 1:
            env[CPU_OVER_RAY] = "1"
    elif model.placement in DRAFTED_BY_US:
        env["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # our adapter hooks into the V1 runner
    if tracing is not None:
        env |= tracing.engine_env()
    return env | model.target.env


def drafter_actor_options(drafter: DrafterSpec) -> dict[str, Any]:
    """Ray's actor options of a drafter replica; the settings' own environment wins."""
    env = {"OMP_NUM_THREADS": str(drafter.threads)} | drafter.env
    options: dict[str, Any] = {
        "num_cpus": drafter.num_cpus,
        "runtime_env": {"env_vars": env},
    }
    if drafter.num_gpus:
        options["num_gpus"] = drafter.num_gpus
    if drafter.resources:
        options["resources"] = dict(drafter.resources)
    return options


def logical_cpus(settings: AppSpec) -> dict[str, float]:
    """Logical CPUs that Ray sets aside for all replicas of each deployment, by its name."""
    cpus = {"Ingress": settings.ingress.replicas * INGRESS_CPUS}
    for one in settings.attached:
        cpus[f"Target:{one.id}"] = len(one.attach.url) * one.attach.num_cpus
    for model in settings.launched:
        target, drafter = model.target, model.drafter
        ranks = sum(bundle["CPU"] for bundle in placement_group(target)["bundles"])
        # `ray.serve.llm` asks for the replica beside its ranks, in the first bundle.
        cpus[f"Target:{model.id}"] = target.replicas * (target.num_cpus + ranks)
        if model.placement == "split" and drafter is not None:
            cpus[f"Drafter:{model.id}"] = drafter.replicas * drafter.num_cpus
    return cpus
