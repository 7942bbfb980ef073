"""Who may run, connect, evict and read secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.serve_file import read_serve_file
from tests.unit.k8s.manifests import (
    K8S,
    OVERLAYS,
    Manifest,
    containers,
    matches,
    of_kind,
    pod_templates,
    ray_groups,
    ray_service,
    render,
)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_is_root_escalates_or_writes_its_image(overlay):
    """Kubernetes' restricted standard, which the namespace enforces, and read-only roots."""
    manifests = render(overlay)
    (namespace,) = of_kind("Namespace", manifests)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for template in pod_templates(manifests):
        pod = template["spec"]["securityContext"]
        assert pod["runAsNonRoot"]
        assert pod["runAsUser"] > 0
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & template["spec"].keys()
        assert all("hostPath" not in v for v in template["spec"].get("volumes", []))
        for container in containers(template):
            assert_confined(container["securityContext"])
    options = ray_service(manifests)["spec"]["rayClusterConfig"]["autoscalerOptions"]
    assert_confined(options["securityContext"])


def assert_confined(context: dict[str, Any]) -> None:
    assert context == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_the_head_talks_to_the_api_server(overlay):
    """Its autoscaler has to; the operator gives it a service account of its own."""
    head, *others = pod_templates(render(overlay))
    assert head["metadata"]["labels"]["app.kubernetes.io/component"] == "head"
    assert all(t["spec"]["automountServiceAccountToken"] is False for t in others)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_container_is_bounded(overlay):
    for template in pod_templates(render(overlay)):
        for container in containers(template):
            resources = container["resources"]
            assert resources["requests"] == resources["limits"]
            assert {"cpu", "memory"} <= resources["limits"].keys()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_under_a_policy_for_both_directions(overlay):
    manifests = render(overlay)
    policies = of_kind("NetworkPolicy", manifests)
    for template in pod_templates(manifests):
        covered = {
            direction
            for policy in policies
            if matches(policy["spec"]["podSelector"], template["metadata"]["labels"])
            for direction in policy["spec"]["policyTypes"]
        }
        assert covered == {"Ingress", "Egress"}, template["metadata"]["labels"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_serving_pods_have_no_way_to_the_internet(overlay):
    """But for the head's to the API server, whose address is not known here."""
    for policy in of_kind("NetworkPolicy", render(overlay)):
        name = policy["metadata"]["name"]
        for rule in policy["spec"].get("egress", []):
            anywhere = "to" not in rule or any("ipBlock" in peer for peer in rule["to"])
            assert not anywhere or name in ("dspark-head", "dspark-prefetch"), name


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_ports_that_others_may_reach_are_ports_of_the_pods(overlay):
    manifests = render(overlay)
    agent = 52365  # the dashboard agent's, on every Ray pod
    listening = {agent}
    for template in pod_templates(manifests):
        for container in containers(template):
            listening |= {port["containerPort"] for port in container.get("ports", [])}
    allowed = {
        port["port"]
        for policy in of_kind("NetworkPolicy", manifests)
        for rule in policy["spec"].get("ingress", [])
        for port in rule.get("ports", [])
    }
    assert allowed <= listening


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_disruption_budgets_keep_what_serving_needs(overlay):
    """Kubernetes counts minAvailable alone, and whole pods, where no scale subresource is."""
    manifests = render(overlay)
    kept = {}
    for budget in of_kind("PodDisruptionBudget", manifests):
        spec = budget["spec"]
        assert spec.keys() == {"minAvailable", "selector"}
        assert isinstance(spec["minAvailable"], int)
        component = spec["selector"]["matchLabels"]["app.kubernetes.io/component"]
        kept[component] = spec["minAvailable"]
    _, *workers = ray_groups(manifests)
    assert kept.pop("head") == 1
    for group in workers:
        labels = group["template"]["metadata"]["labels"]
        hosts = group.get("numOfHosts", 1)
        # A replica is all of its hosts; never more than always run, or no node could drain.
        assert hosts <= kept[labels["app.kubernetes.io/component"]] <= group["minReplicas"] * hosts


def secrets(node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, list):
        for item in node:
            yield from secrets(item)
    elif isinstance(node, dict):
        if "secretKeyRef" in node:
            yield node["secretKeyRef"]["name"], node["secretKeyRef"]["key"]
        if "secretName" in node:
            of_file = [(node["secretName"], item["key"]) for item in node.get("items", ())]
            yield from of_file or [(node["secretName"], "auth_token")]  # which KubeRay reads
        for value in node.values():
            yield from secrets(value)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_secrets_are_named_never_written(overlay):
    manifests: list[Manifest] = render(overlay)
    assert not of_kind("Secret", manifests)
    named = set(secrets(manifests))
    assert ("dspark-ray-token", "auth_token") in named
    created = re.findall(
        r"create secret generic ([\w-]+)[ \\\n]+--from-(?:literal|file)=([\w.]+)",
        (K8S / "README.md").read_text(),
    )
    assert named <= set(created)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_keys_that_the_serve_file_asks_for_are_mounted_in_every_pod_and_can_change(overlay):
    manifests = render(overlay)
    keys_file = read_serve_file(K8S / "overlays" / overlay / "serve.yaml").settings.keys_file
    assert (keys_file is None) == (overlay == "cpu-demo")
    for group in ray_groups(manifests):
        spec = group["template"]["spec"]
        of_secret = {v["name"]: v["secret"] for v in spec["volumes"] if "secret" in v}
        mounts = [m for m in spec["containers"][0]["volumeMounts"] if m["name"] in of_secret]
        if keys_file is None:
            assert not mounts
            continue
        (mount,) = mounts
        # A subPath would stay as it was when the pod started.
        assert mount == {
            "name": mount["name"],
            "mountPath": str(Path(keys_file).parent),
            "readOnly": True,
        }
        secret = of_secret[mount["name"]]
        assert [item["path"] for item in secret["items"]] == [Path(keys_file).name]
        assert not secret.get("optional")  # without keys nobody is to be served, not everybody
        assert secret["defaultMode"] == 0o440  # read by fsGroup alone
        assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]
