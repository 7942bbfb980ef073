"""What the operator, Serve and the scheduler ask of a RayService beyond its schema."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _get_ray_resources_from_group_spec
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from deployments.catalog import find_checkpoint
from deployments.memory import check_memory
from deployments.placement import INGRESS_CPUS, drafter_actor_options, placement_group
from deployments.schema import ModelSpec
from deployments.serve_file import ServeFile, read_serve_file
from tests.unit.k8s.manifests import (
    K8S,
    OVERLAYS,
    containers,
    of_kind,
    pod_templates,
    ray_groups,
    ray_service,
    render,
)

PROJECT = tomllib.loads(Path("pyproject.toml").read_text())["project"]
WITH_MODELS = [name for name in OVERLAYS if name != "cpu-demo"]


def serve_file(overlay: str) -> ServeFile:
    return read_serve_file(K8S / "overlays" / overlay / "serve.yaml")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_serve_gets_the_overlays_file(overlay):
    text = (K8S / "overlays" / overlay / "serve.yaml").read_text()
    assert ray_service(render(overlay))["spec"]["serveConfigV2"] == text
    assert serve_file(overlay).settings.models


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_serve_file_has_no_key_that_serve_would_drop(overlay):
    document = yaml.safe_load((K8S / "overlays" / overlay / "serve.yaml").read_text())
    assert document.keys() <= ServeDeploySchema.model_fields.keys()
    (application,) = document["applications"]
    assert application.keys() <= ServeApplicationSchema.model_fields.keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_application_listens_where_the_pods_are_reached(overlay):
    file = serve_file(overlay)
    assert file.host == "0.0.0.0"
    for group in ray_groups(render(overlay)):
        ports = group["template"]["spec"]["containers"][0]["ports"]
        assert {"name": "serve", "containerPort": file.port} in ports


@pytest.mark.parametrize("overlay", WITH_MODELS)
def test_checkpoints_are_pinned_and_fit_the_gpus(overlay):
    for model in serve_file(overlay).settings.models:
        assert model.drafter is not None
        for part in (model.target, model.drafter):
            known = find_checkpoint(part.source)
            assert known is not None
            assert part.revision == known.revision
        assert check_memory(model) is not None


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_versions_are_those_of_the_project(overlay):
    manifests = render(overlay)
    (ray,) = (d for d in PROJECT["dependencies"] if d.startswith("ray[serve]"))
    cluster = ray_service(manifests)["spec"]["rayClusterConfig"]
    assert f"ray[serve]=={cluster['rayVersion']}" == ray
    build = "cpu" if overlay == "cpu-demo" else "cuda"
    images = {c["image"] for t in pod_templates(manifests) for c in containers(t)}
    assert images - {"redis:7.4"} == {f"dspark:{PROJECT['version']}-{build}"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_the_operator_refuses_is_not_asked_of_it(overlay):
    """`ValidateRayServiceSpec` of KubeRay 1.7, as far as it concerns these manifests."""
    service = ray_service(render(overlay))
    cluster = service["spec"]["rayClusterConfig"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,39}[a-z0-9])?", service["metadata"]["name"])
    assert cluster["authOptions"] == {"mode": "token", "secretName": "dspark-ray-token"}
    assert cluster["rayVersion"]  # tokens need to know it
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        assert "labels" not in group["rayStartParams"]
        assert "resources" not in group or "resources" not in group["rayStartParams"]
        assert group["template"]["spec"].get("restartPolicy", "Never") == "Never"  # autoscaler v2
        names = {e["name"] for e in group["template"]["spec"]["containers"][0].get("env", [])}
        assert not names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "RAY_enable_autoscaler_v2"}
    upgrade = service["spec"].get("upgradeStrategy")
    if upgrade:
        options = upgrade["clusterUpgradeOptions"]
        assert upgrade["type"] == "NewClusterWithIncrementalUpgrade"
        assert cluster["enableInTreeAutoscaling"]
        assert options["gatewayClassName"]
        assert 0 < options["stepSizePercent"] <= options["maxSurgePercent"] <= 100
        assert options["intervalSeconds"] > 0


@pytest.mark.parametrize("overlay", WITH_MODELS)
def test_the_control_store_survives_its_head(overlay):
    manifests = render(overlay)
    options = ray_service(manifests)["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    (redis,) = of_kind("Service", manifests)
    (port,) = redis["spec"]["ports"]
    assert options["redisAddress"] == f"{redis['metadata']['name']}:{port['port']}"
    secret = options["redisPassword"]["valueFrom"]["secretKeyRef"]
    (store,) = of_kind("StatefulSet", manifests)
    (container,) = store["spec"]["template"]["spec"]["containers"]
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == secret
    assert "appendonly" in " ".join(container["args"])


@pytest.mark.parametrize("overlay", WITH_MODELS)
def test_serving_pods_read_checkpoints_and_fetch_none(overlay):
    manifests = render(overlay)
    for group in ray_groups(manifests):
        spec = group["template"]["spec"]
        env = {e["name"]: e.get("value") for e in spec["containers"][0]["env"]}
        assert (env["HF_HUB_OFFLINE"], env["HF_HOME"]) == ("1", "/models")
        (volume,) = (v for v in spec["volumes"] if v["name"] == "models")
        assert volume["persistentVolumeClaim"] == {"claimName": "dspark-models", "readOnly": True}
    head = ray_groups(manifests)[0]["template"]["spec"]
    (waiting,) = head["initContainers"]
    (job,) = of_kind("Job", manifests)
    (fetching,) = job["spec"]["template"]["spec"]["containers"]
    assert waiting["command"] == [*fetching["command"], "--wait"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_mounted_volumes_exist(overlay):
    manifests = render(overlay)
    claims = {m["metadata"]["name"] for m in of_kind("PersistentVolumeClaim", manifests)}
    for store in of_kind("StatefulSet", manifests):
        names = {c["metadata"]["name"] for c in store["spec"]["volumeClaimTemplates"]}
        (container,) = containers(store["spec"]["template"])
        assert {m["name"] for m in container["volumeMounts"]} == names
    for template in pod_templates(manifests):
        volumes = template["spec"].get("volumes", [])
        for volume in volumes:
            claim = volume.get("persistentVolumeClaim")
            assert claim is None or claim["claimName"] in claims
        if volumes:
            mounted = {m["name"] for c in containers(template) for m in c["volumeMounts"]}
            assert mounted == {volume["name"] for volume in volumes}


@pytest.mark.parametrize("size", ["min", "max"])
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_replicas_fit_the_pods(overlay, size):
    """Bundles placed as Ray would, on what its autoscaler reads out of the groups."""
    free = []
    for group in ray_groups(render(overlay))[1:]:
        resources = _get_ray_resources_from_group_spec(group, is_head=False)
        num_pods = group[f"{size}Replicas"] * group.get("numOfHosts", 1)
        free += [dict(resources) for _ in range(num_pods)]
    for model in serve_file(overlay).settings.models:
        for _ in range(target_replicas(model, size)):
            group = placement_group(model.target)
            group["bundles"][0]["CPU"] += model.target.num_cpus  # the replica itself
            place(group, free)
        if model.placement == "split":
            assert model.drafter is not None
            options = drafter_actor_options(model.drafter)
            bundle = {"CPU": options["num_cpus"], "GPU": options.get("num_gpus", 0)}
            bundle |= options.get("resources", {})
            for _ in range(model.drafter.replicas):
                place({"bundles": [bundle]}, free)
    place({"bundles": [{"CPU": INGRESS_CPUS}]}, free)


def target_replicas(model: ModelSpec, size: str) -> int:
    scaling = model.target.scaling
    if scaling is None:
        return model.target.replicas
    return scaling.least if size == "min" else scaling.most


def place(group: dict[str, Any], free: list[dict[str, float]]) -> None:
    """Takes a placement group's resources from the first pods with room, or fails."""
    taken: list[dict[str, float]] = []
    for bundle in group["bundles"]:
        candidates = [pod for pod in free if all(pod.get(k, 0) >= v for k, v in bundle.items())]
        if group.get("strategy") == "STRICT_SPREAD":
            candidates = [pod for pod in candidates if not any(pod is t for t in taken)]
        assert candidates, f"no pod has room for {bundle}"
        pod = candidates[0]
        taken.append(pod)
        for name, amount in bundle.items():
            pod[name] = pod.get(name, 0) - amount


def test_ranks_over_several_pods_are_one_group_of_hosts():
    (target,) = (m.target for m in serve_file("multi-node").settings.models)
    group = ray_groups(render("multi-node"))[1]
    assert group["numOfHosts"] == target.nodes == 2
    # Ray 2.60's autoscaler divides the pods it wants by numOfHosts and drops the rest.
    assert group["minReplicas"] == group["maxReplicas"]
