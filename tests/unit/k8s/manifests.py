"""The overlays as kubectl would apply them, and the parts that tests ask for."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

K8S = Path("k8s")
OVERLAYS = sorted(path.parent.name for path in K8S.glob("overlays/*/kustomization.yaml"))
Manifest = dict[str, Any]
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast


@cache
def _rendered(overlay: str, k8s: Path) -> str:
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            directory = str(k8s / "overlays" / overlay)
            return subprocess.run(
                [*command, directory], capture_output=True, text=True, check=True, timeout=60
            ).stdout
    return ""


def render(overlay: str, k8s: Path = K8S) -> list[Manifest]:
    """Every manifest of an overlay. Skips where nothing here renders kustomizations."""
    text = _rendered(overlay, k8s)
    if not text:
        pytest.skip("neither kustomize nor kubectl is installed")
    return list(yaml.load_all(text, LOADER))


def of_kind(kind: str, manifests: list[Manifest]) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] == kind]


def ray_service(manifests: list[Manifest]) -> Manifest:
    (service,) = of_kind("RayService", manifests)
    return service


def ray_groups(manifests: list[Manifest]) -> list[Manifest]:
    """The head's group, then the workers'."""
    cluster = ray_service(manifests)["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def pod_templates(manifests: list[Manifest]) -> Iterator[Manifest]:
    """Of everything that becomes pods."""
    for group in ray_groups(manifests):
        yield group["template"]
    for manifest in manifests:
        if manifest["kind"] in ("StatefulSet", "Job"):
            yield manifest["spec"]["template"]


def containers(template: Manifest) -> list[Manifest]:
    spec = template["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def matches(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector picks pods with these labels."""
    if any(labels.get(k) != v for k, v in selector.get("matchLabels", {}).items()):
        return False
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In", expression
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return True
