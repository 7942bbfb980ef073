"""What a changed Serve file does to what runs: who is replaced, beside whom, and who is down.

Pure. Serve takes the whole of `args` for the version of its code, so with any change in it every
replica goes. A deployment with `max_surge_percent` starts the next replica before the old one
goes, and waits where it has no room; one without stops the old replica first. So a target gets
its surge where the cluster has room for one more replica, and where it is the only one and there
is no room, its model is down until the next one is up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.serve.schema import DeploymentSchema, ServeApplicationSchema, ServeDeploySchema

from deployments.placement import placement_group, pool_sizes
from deployments.schema import AttachedModelSpec, ModelSpec
from deployments.serve_file import ServeFile

TARGET = "Target:"  # and the model's id: the name of a deployment
SURGE = "max_surge_percent"
_ONE_MORE = 1  # percent of the replicas, rounded up

Resources = dict[str, float]


@dataclass(frozen=True, slots=True)
class Rollout:
    """Models by what becomes of their targets; all empty where nothing is replaced.

    `beside`: the next replica starts first; `in_turn`: replicas go one at a time while others
    serve; `down`: the only one goes first. `removed` are served no longer, `added` not yet.
    """

    beside: tuple[str, ...] = ()
    in_turn: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For who deploys."""
        said = {
            "the next replica starts before an old one goes": self.beside,
            "no room for one more replica: they are replaced one at a time": self.in_turn,
            "DOWN until its next replica is up: it has one, and there is no room for another": (
                self.down
            ),
            "served no longer": self.removed,
            "new": self.added,
        }
        return [f"{', '.join(models)}: {what}" for what, models in said.items() if models]


def plan_rollout(
    running: ServeApplicationSchema | None,
    serving: Collection[str],
    file: ServeFile,
    free: Iterable[Mapping[str, float]],
) -> Rollout:
    """`running` is what Serve runs under the application's name, None where that did not come up;
    `serving` are the models that have a target all the same. `free`: logical resources by node."""
    (app,) = file.schema.applications
    if running is not None and _is_same(running, app):
        return Rollout()
    nodes = [dict(node) for node in free]
    models: dict[str, list[str]] = {"beside": [], "in_turn": [], "down": [], "added": []}
    for model in file.settings.models:
        models[_fate(model, serving, _own_surge(app, model.id), nodes)].append(model.id)
    after = {model.id for model in file.settings.models}
    removed = tuple(sorted(set(serving) - after))
    return Rollout(removed=removed, **{fate: tuple(ids) for fate, ids in models.items()})


def with_surge(schema: ServeDeploySchema, models: Sequence[str]) -> ServeDeploySchema:
    """The same file, in which these models' next targets start before the old ones go."""
    (app,) = schema.applications
    options = {one.name: one.model_dump(exclude_unset=True) for one in app.deployments}
    for name in (TARGET + id_ for id_ in models):
        options.setdefault(name, {"name": name}).setdefault(SURGE, _ONE_MORE)
    deployments = [DeploymentSchema.model_validate(one) for one in options.values()]
    return schema.model_copy(
        update={"applications": [app.model_copy(update={"deployments": deployments})]}
    )


def _fate(
    model: ModelSpec | AttachedModelSpec,
    serving: Collection[str],
    own_surge: int | None,
    nodes: list[Resources],
) -> str:
    if model.id not in serving:
        return "added"
    has_room = own_surge != 0 and take_room(*_needs(model), nodes)
    if own_surge or has_room:
        return "beside"  # with the file's own surge old replicas serve for as long as it takes
    return "down" if pool_sizes(model).targets == 1 else "in_turn"


def _is_same(one: ServeApplicationSchema, other: ServeApplicationSchema) -> bool:
    """But for how replicas are replaced."""
    return _without_surge(one) == _without_surge(other)


def _without_surge(app: ServeApplicationSchema) -> dict[str, Any]:
    said: dict[str, Any] = app.model_dump(exclude_unset=True)
    options = [{k: v for k, v in one.items() if k != SURGE} for one in said.get("deployments", ())]
    return said | {"deployments": [one for one in options if one.keys() != {"name"}]}


def _own_surge(app: ServeApplicationSchema, model_id: str) -> int | None:
    """What the file itself says of a model's targets; None where it leaves that open."""
    for one in app.deployments:
        if one.name == TARGET + model_id and SURGE in one.model_fields_set:
            return int(one.max_surge_percent)
    return None


def _needs(model: ModelSpec | AttachedModelSpec) -> tuple[list[Resources], str]:
    """Bundles and strategy of one more target replica."""
    if isinstance(model, AttachedModelSpec):
        return [{"CPU": model.attach.num_cpus}], "STRICT_PACK"
    group = placement_group(model.target)
    bundles = [dict(bundle) for bundle in group["bundles"]]
    bundles[0]["CPU"] += model.target.num_cpus  # the replica's own, beside its ranks'
    return bundles, group.get("strategy", "STRICT_PACK")


def take_room(bundles: Sequence[Resources], strategy: str, nodes: list[Resources]) -> bool:
    """Take what one replica needs out of `nodes`; False, and nothing taken, where it is not there.

    One bundle after another, each from the first node that has it: with equal bundles, as ours
    are but for the first one's processors, no other order finds more.
    """
    if strategy == "STRICT_PACK":
        whole = {name: sum(b.get(name, 0.0) for b in bundles) for b in bundles for name in b}
        bundles = [whole]
    left = [dict(node) for node in nodes]
    used: set[int] = set()
    for bundle in bundles:
        found = next(
            (
                i
                for i, node in enumerate(left)
                if not (strategy == "STRICT_SPREAD" and i in used) and _holds(node, bundle)
            ),
            None,
        )
        if found is None:
            return False
        used.add(found)
        for name, amount in bundle.items():
            left[found][name] = left[found].get(name, 0.0) - amount
    nodes[:] = left
    return True


def _holds(node: Resources, bundle: Resources) -> bool:
    return all(node.get(name, 0.0) >= amount for name, amount in bundle.items())
