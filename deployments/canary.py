"""A drafter on trial: an application of its own beside the one whose targets try it."""

from __future__ import annotations

from pydantic import Field, ValidationError
from ray import serve

from autoscale.canary import CanaryRule
from deployments.canary_apps import canary_app
from deployments.draft_model import check_drafter
from deployments.drafter_pool import bind_drafters
from deployments.drafting_pair import drafting_pair
from deployments.errors import ConfigError
from deployments.pinning import pinned_model
from deployments.schema import ModelSpec
from deployments.specs import Revision, Settings
from deployments.tracing.spec import TracingSpec


class CanarySpec(Settings):
    """What `POST /fleet/models/{id}/canary` takes.

    `drafter` is a checkpoint directory or hub id, `share` of the new sessions, `replicas` as
    many as the model's own drafters unless given. For the rule see
    `autoscale.canary.CanaryRule`.
    """

    drafter: str = Field(min_length=1)
    revision: Revision | None = None
    share: float = Field(default=0.05, gt=0, le=1)
    replicas: int | None = Field(default=None, ge=1)
    margin: float = Field(default=0.02, gt=0, lt=1)
    ece_margin: float = Field(default=0.03, gt=0, lt=1)
    patience_s: float = Field(default=3600.0, gt=0)

    @property
    def rule(self) -> CanaryRule:
        return CanaryRule(self.margin, self.ece_margin, self.patience_s)


def parse_canary(body: object) -> CanarySpec:
    """Raises ConfigError with a line per wrong field."""
    try:
        return CanarySpec.model_validate(body)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise ConfigError("; ".join(wrong)) from None


def canary_model(model: ModelSpec, spec: CanarySpec) -> ModelSpec:
    """The model with the new drafter in the place of its own.

    Raises ConfigError where the model has no drafter replicas, or for a drafter that the
    running targets cannot serve: of another block, or reading other layers.
    """
    if model.placement != "split" or model.drafter is None:
        raise ConfigError(
            f"model {model.id} has placement {model.placement}: a drafter is tried beside "
            "drafter replicas, placement split"
        )
    replicas = spec.replicas or model.drafter.replicas
    changes = {
        "source": spec.drafter,
        "revision": spec.revision,
        "random": None,
        "ngram": None,
        "calibration": None,
        "replicas": replicas,
        "scaling": None,
    }
    drafter = model.drafter.model_copy(update=changes)
    tried = pinned_model(model.model_copy(update={"drafter": drafter}))
    serving, new = check_drafter(model), check_drafter(tried)
    if serving != new:
        raise ConfigError(
            f"drafter {spec.drafter}: {new} is not what the targets of {model.id} run with, "
            f"{serving}; restart them with it instead"
        )
    return tried


def canary_name(tried: ModelSpec) -> str:
    """Names a drafter's weights: the same drafter is the same canary."""
    pair = drafting_pair(tried)
    return f"{pair.drafter_id}:{pair.drafter_version}"


def deploy_canary(app_name: str, tried: ModelSpec, tracing: TracingSpec | None = None) -> str:
    """Start the new drafter's replicas; returns its name. Does not wait until they are up."""
    pair = drafting_pair(tried)
    name = canary_name(tried)
    application = bind_drafters(
        tried,
        tracing=tracing,
        app_name=app_name,
        canary=name,
        version=(pair.drafter_id, pair.drafter_version),
    )
    serve.run_many(
        [serve.RunTarget(application, name=canary_app(app_name, tried.id), route_prefix=None)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )
    return name
