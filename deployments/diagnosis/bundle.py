"""One file to send with a bug report: everything that helps, redacted."""

from __future__ import annotations

import getpass
import io
import json
import os
import platform
import tarfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from cluster.doctor import Evidence, Expected, as_text
from deployments.diagnosis.doctor import Asked, collect, diagnose
from deployments.diagnosis.redaction import GONE, Redactor

_TAIL_BYTES = 64 << 10  # of each log
_MOST_LOGS = 60  # the newest
_LOGS = ("serve/*.log", "dashboard*.log", "gcs_server.*", "raylet.*", "worker-*.err", "monitor.*")
_SECRET_VARIABLES = ("TOKEN", "KEY", "SECRET", "PASSWORD")


def write_bundle(output: Path, asked: Asked, config: Path | None, logs: Path) -> list[str]:
    """Writes the tar.gz, for its owner alone, and returns the names in it.

    Raises OSError where it cannot be written, and what `collect` raises.
    """
    evidence = collect(asked)
    redactor = Redactor(known_secrets(), _names(evidence))
    files = bundle_files(evidence, config, logs, redactor)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in files.items():
            content = text.encode()
            entry = tarfile.TarInfo(f"dspark-bundle/{name}")
            entry.size, entry.mode = len(content), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return list(files)


def bundle_files(
    evidence: Evidence, config: Path | None, logs: Path, redactor: Redactor
) -> dict[str, str]:
    """The bundle's files by name, every one of them redacted."""
    findings = diagnose(evidence, Expected(), config)
    files = {
        "findings.txt": redactor.text(as_text(findings)),
        "evidence.json": _json(redactor.value(asdict(evidence))),
    }
    if config is not None:
        files["serve-file.yaml"] = _serve_file(config, redactor)
    for path in newest_logs(logs):
        files[f"logs/{redactor.text(str(path.relative_to(logs)))}"] = redactor.text(_tail(path))
    return files


def known_secrets() -> set[str]:
    """Secrets that this process can see: wherever they turn up, they are taken out."""
    secrets = {
        value
        for name, value in os.environ.items()
        if any(part in name.upper() for part in _SECRET_VARIABLES) and len(value) >= 8
    }
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    if token.is_file():
        secrets.add(token.read_text().strip())
    return secrets


def newest_logs(logs: Path) -> list[Path]:
    """Logs of Ray and Serve, the newest first; none where there is no such directory."""
    found = {path for pattern in _LOGS for path in logs.glob(pattern) if path.is_file()}
    return sorted(found, key=lambda path: (-path.stat().st_mtime, path.name))[:_MOST_LOGS]


def _names(evidence: Evidence) -> set[str]:
    """Names of users and machines that turn up in paths and logs."""
    hosts = {node.node.partition(" (")[0] for node in evidence.nodes}
    user = getpass.getuser()
    return (hosts | {platform.node(), user}) - {"root", "ray", "localhost"}


def _serve_file(config: Path, redactor: Redactor) -> str:
    try:
        document: Any = yaml.safe_load(config.read_text())
    except (OSError, yaml.YAMLError) as error:
        return redactor.text(f"cannot be read: {error}")
    return yaml.safe_dump(_without_env(redactor.value(document)), sort_keys=False, width=100)


def _without_env(value: Any) -> Any:
    """Values of environment variables are gone: their names say enough."""
    if isinstance(value, dict):
        return {
            key: dict.fromkeys(item, GONE)
            if key in ("env", "env_vars") and isinstance(item, dict)
            else _without_env(item)
            for key, item in value.items()
        }
    return [_without_env(item) for item in value] if isinstance(value, list) else value


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_BYTES))
        content = file.read()
    if size > _TAIL_BYTES:
        content = content.partition(b"\n")[2]  # a cut line could hide what is to be found
    return content.decode(errors="replace")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, sort_keys=True, default=str)
