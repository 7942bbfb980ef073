"""What `dspark doctor` does: collect, examine, say."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cluster.doctor import Evidence, Expected, Finding, examine, joined, read_evidence
from cluster.doctor.collect import collect_node
from cluster.doctor.findings import broken, fine
from cluster.doctor.ray_nodes import collect_cluster
from cluster.doctor.service import ask_service
from cluster.versions import CompatibilityError
from deployments.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Asked:
    """Where evidence comes from: files, or this machine or every node of Ray's, and a URL."""

    files: tuple[Path, ...] = ()
    ray: bool = False
    url: str | None = None
    model: str | None = None


def collect(asked: Asked) -> Evidence:
    """Raises EvidenceError, OSError or ClusterError for what cannot be read or reached."""
    parts = [read_evidence(path.read_text(), str(path)) for path in asked.files]
    if asked.ray:
        address = os.environ.get("RAY_ADDRESS", "auto")
        parts.append(Evidence(tuple(collect_cluster(address))))
    elif not asked.files:
        parts.append(Evidence((collect_node(),)))
    if asked.url is not None:
        service = ask_service(asked.url, os.environ.get("OPENAI_API_KEY"), asked.model)
        parts.append(Evidence((), service))
    return joined(parts)


def diagnose(evidence: Evidence, expected: Expected, config: Path | None) -> list[Finding]:
    """Everything there is to say, about a Serve file too."""
    findings = examine(evidence, expected)
    if config is not None:
        findings.append(_fit(config))
    return findings


def _fit(config: Path) -> Finding:
    """Whether what a Serve file needs is there: software, checkpoints that fit, keys."""
    # Imported here: they bring torch, and a machine where that is broken is to be examined too.
    from deployments.compatibility import accept_software
    from deployments.preflight import check_settings
    from deployments.serve_file import read_serve_file

    try:
        settings = read_serve_file(config).settings
        accept_software(model.placement for model in settings.launched)
        check_settings(settings)
    except (ConfigError, CompatibilityError) as error:
        return broken(
            str(config),
            "Serve file",
            str(error),
            "`dspark serve` and `serve deploy` would refuse it",
            "as the message says",
        )
    ids = ", ".join(model.id for model in settings.models)
    return fine(str(config), "Serve file", f"{ids}: checkpoints are there and fit")
