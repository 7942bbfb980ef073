"""The dashboards and rules that come with the package: read, written down, pushed to a Grafana."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

_HERE = Path(str(files("cluster.observability")))
_WRITTEN = ("dashboards", "provisioning", "prometheus")
_FOLDER = "DSpark"
_FOLDER_UID = "dspark"
_TIMEOUT_S = 20.0


class PushError(Exception):
    """A Grafana that cannot be reached, or that refuses; the message says which and why."""


def alerts_path() -> Path:
    """Rules and alerts, as Prometheus' `rule_files` takes them."""
    return _HERE / "prometheus" / "alerts.yml"


def dashboards() -> dict[str, dict[str, Any]]:
    """By file name: Grafana's own JSON, without the ids of any server."""
    paths = sorted((_HERE / "dashboards").glob("*.json"))
    return {path.stem: json.loads(path.read_text()) for path in paths}


def write_files(directory: Path) -> list[Path]:
    """Everything that Grafana and Prometheus provision from files; returns what was written.

    Raises OSError where that cannot be written.
    """
    written = []
    for source in sorted(path for name in _WRITTEN for path in _HERE.glob(f"{name}/**/*.*")):
        target = directory / source.relative_to(_HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source.read_text())
        written.append(target)
    return written


def push_dashboards(url: str, token: str) -> list[str]:
    """Create or replace the dashboards in Grafana's folder DSpark; returns their addresses.

    Raises PushError, for a wrong `url` before anything is sent.
    """
    import requests
    from grafana_api.grafana_api import GrafanaException

    grafana = _grafana(url, token)
    try:
        folders = {folder["uid"]: folder["id"] for folder in grafana.folder.get_all_folders()}
        if _FOLDER_UID not in folders:
            folders[_FOLDER_UID] = grafana.folder.create_folder(_FOLDER, _FOLDER_UID)["id"]
        pushed = []
        for dashboard in dashboards().values():
            answer = grafana.dashboard.update_dashboard(
                {
                    "dashboard": dashboard | {"id": None},
                    "folderId": folders[_FOLDER_UID],
                    "folderUid": _FOLDER_UID,  # what newer servers go by
                    "overwrite": True,
                    "message": "dspark dashboards push",
                }
            )
            pushed.append(url.rstrip("/") + f"/d/{answer['uid']}")
    except GrafanaException as error:
        raise PushError(f"{url} refuses: {error.message}") from None
    except (requests.RequestException, ValueError, KeyError) as error:
        raise PushError(f"{url} does not answer as Grafana: {error!r}") from None
    return pushed


def _grafana(url: str, token: str) -> Any:
    """`grafana_api`'s client. Raises PushError for what is no address, or without the package."""
    try:
        from grafana_api.grafana_face import GrafanaFace
    except ImportError:
        raise PushError("grafana-api is not installed: pip install '.[observability]'") from None
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise PushError(f"{url!r} is no address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise PushError(f"{url!r} is no address: http://HOST:PORT or https://HOST is")
    prefix = parts.path.strip("/")
    return GrafanaFace(
        auth=token,
        host=parts.hostname,
        port=port,
        url_path_prefix=f"{prefix}/" if prefix else "",
        protocol=parts.scheme,
        timeout=_TIMEOUT_S,
    )
