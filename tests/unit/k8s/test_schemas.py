"""Every rendered manifest against the schema of its kind, without room for unknown fields."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.unit.k8s.manifests import (
    K8S,
    LOADER,
    OVERLAYS,
    of_kind,
    ray_groups,
    ray_service,
    render,
)

CRDS = Path("../shared/k8s-crds")
KUBERNETES = "1.34"  # of the API's schemas; all kinds used here are older
OPERATORS_KINDS = ("RayService", "PodMonitor", "PrometheusRule")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_core_kinds_are_what_kubernetes_says_they_are(overlay):
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed (extra test)"
    )
    core = [m for m in render(overlay) if m["kind"] not in OPERATORS_KINDS]
    assert core
    for manifest in core:
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_misspelt_field_of_a_core_kind_is_found():
    kubernetes_validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed (extra test)"
    )
    (head, _) = of_kind("PodDisruptionBudget", render("cpu-demo"))
    head["spec"]["minAvailabel"] = 1
    with pytest.raises(kubernetes_validate.ValidationError, match="minAvailabel"):
        kubernetes_validate.validate(head, KUBERNETES, strict=True)


@cache
def crd_validator(plural: str) -> jsonschema.Draft202012Validator:
    path = CRDS / f"ray.io_{plural}.yaml"
    if not path.is_file():
        pytest.skip(f"{path} is absent: KubeRay's CRDs are not part of this repository")
    document = yaml.load(path.read_text(), LOADER)
    (schema,) = (
        version["schema"]["openAPIV3Schema"]
        for version in document["spec"]["versions"]
        if version["name"] == "v1"
    )
    schema["properties"]["metadata"] = {"type": "object", "additionalProperties": True}
    return jsonschema.Draft202012Validator(_strict(schema))


def _strict(node: Any) -> Any:
    """OpenAPI's schema as JSON schema that refuses what it does not name."""
    if isinstance(node, list):
        return [_strict(item) for item in node]
    if not isinstance(node, dict):
        return node
    strict = {key: _strict(value) for key, value in node.items()}
    if isinstance(node.get("properties"), dict) and "type" in node:
        strict.setdefault("additionalProperties", False)
    return strict


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_ray_service_is_what_kuberays_crds_say(overlay):
    service = ray_service(render(overlay))
    crd_validator("rayservices").validate(service)
    cluster = {
        "apiVersion": "ray.io/v1",
        "kind": "RayCluster",
        "metadata": {"name": "dspark"},
        "spec": service["spec"]["rayClusterConfig"],
    }
    crd_validator("rayclusters").validate(cluster)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_tls_between_rays_processes_is_a_component_that_every_overlay_takes(overlay, tmp_path):
    shutil.copytree(K8S, tmp_path / "k8s")
    file = tmp_path / "k8s/overlays" / overlay / "kustomization.yaml"
    kustomization = yaml.safe_load(file.read_text())
    components = [*kustomization.get("components", ()), "../../components/ray-tls"]
    file.write_text(yaml.safe_dump(kustomization | {"components": components}))
    manifests = render(overlay, tmp_path / "k8s")
    service = ray_service(manifests)
    assert service["spec"]["rayClusterConfig"]["tlsOptions"] == {"enabled": True}
    # What the operator adds itself and refuses to find there (`validateTLSOptions`).
    for group in ray_groups(manifests):
        container = group["template"]["spec"]["containers"][0]
        assert not [e["name"] for e in container["env"] if "_TLS" in e["name"]]
        assert "/etc/ray/tls" not in {m["mountPath"] for m in container["volumeMounts"]}
    crd_validator("rayservices").validate(service)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("rayClusterConfig", "enableIntreeAutoscaling"), True),
        (("rayClusterConfig", "authOptions", "mode"), "tokens"),
        (("rayClusterConfig", "workerGroupSpecs", 0, "numOfHosts"), "two"),
        (
            ("rayClusterConfig", "headGroupSpec", "template", "spec", "containers", 0, "ports"),
            {"containerPort": 8000},
        ),
    ],
)
def test_a_wrong_field_of_the_ray_service_is_found(path, value):
    service = ray_service(render("cpu-demo"))
    node = service["spec"]
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        crd_validator("rayservices").validate(service)


def test_kuberay_counts_no_pods_of_a_ray_cluster():
    """Why disruption budgets may say minAvailable alone: there is no scale subresource."""
    crd_validator("rayclusters")  # skips without the CRDs
    document = yaml.load((CRDS / "ray.io_rayclusters.yaml").read_text(), LOADER)
    for version in document["spec"]["versions"]:
        assert version["subresources"] == {"status": {}}
