"""What a Serve file says beside the settings: https, a policy, options of single deployments."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.errors import ConfigError
from deployments.foreground import _print_ready
from deployments.serve_file import ServeFile, check_https, read_serve_file

MODEL = {"id": "m", "placement": "off", "target": {"source": "models/demo-target"}}
POLICY = {"policy_function": "deployments.autoscaling:fleet_policy"}


def serve_file(path: Path, *, http: dict[str, Any] | None = None, **of_app: Any) -> ServeFile:
    application = {"import_path": "deployments.app:build_app", "args": {"models": [MODEL]}}
    document = {"http_options": http or {}, "applications": [application | of_app]}
    path.write_text(yaml.safe_dump(document))
    return read_serve_file(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "serve.yaml"


@pytest.fixture
def https(tmp_path: Path) -> dict[str, str]:
    """A certificate and its key."""
    files = {"ssl_certfile": str(tmp_path / "tls.crt"), "ssl_keyfile": str(tmp_path / "tls.key")}
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=here"),
            *("-out", files["ssl_certfile"], "-keyout", files["ssl_keyfile"]),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return files


@pytest.mark.parametrize(
    ("of_app", "more"),
    [
        ({}, False),
        ({"route_prefix": "/here"}, False),
        ({"deployments": []}, False),
        ({"autoscaling_policy": POLICY}, True),
        ({"deployments": [{"name": "Target:m", "max_surge_percent": 100}]}, True),
    ],
)
def test_what_reaches_serve_with_the_file_alone_is_known(path, of_app, more):
    assert serve_file(path, **of_app).says_more_than_settings is more


def test_a_pool_that_scales_takes_the_policy(path):
    scaled = MODEL | {"target": MODEL["target"] | {"scaling": {"least": 1, "most": 2}}}
    with pytest.raises(ConfigError, match="autoscaling_policy"):
        serve_file(path, args={"models": [scaled]})
    assert serve_file(path, args={"models": [scaled]}, autoscaling_policy=POLICY).settings


def test_https_is_served_and_said(path, https, capsys):
    file = serve_file(path, http=https)
    check_https(file)
    assert file.schema.http_options.model_dump().items() >= https.items()  # as Serve gets it
    _print_ready(file, "127.0.0.1", 8000, 1.0)
    said = capsys.readouterr().out
    assert "https://127.0.0.1:8000/v1" in said
    assert "http://" not in said


def test_without_a_certificate_it_is_http(path, capsys):
    file = serve_file(path)
    check_https(file)
    _print_ready(file, "127.0.0.1", 8000, 1.0)
    assert "https://" not in capsys.readouterr().out


@pytest.mark.parametrize("lacking", ["ssl_certfile", "ssl_keyfile"])
def test_half_of_https_is_refused(path, https, lacking):
    del https[lacking]
    with pytest.raises(ConfigError, match=r"http_options.*ssl_certfile"):
        serve_file(path, http=https)


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("ssl_certfile", None, "No such file"),
        ("ssl_keyfile", None, "No such file"),
        ("ssl_keyfile", "no key", r"ssl_keyfile .*tls\.key: "),
    ],
)
def test_https_that_this_machine_cannot_serve_is_refused(path, https, name, text, why):
    if text is None:
        Path(https[name]).unlink()
    else:
        Path(https[name]).write_text(text)
    with pytest.raises(ConfigError, match=why):
        check_https(serve_file(path, http=https))


def test_a_key_of_another_certificate_is_refused(path, https, tmp_path):
    other = tmp_path / "other.key"
    subprocess.run(
        ["openssl", "genrsa", "-out", str(other), "2048"], check=True, capture_output=True
    )
    with pytest.raises(ConfigError, match="no https with"):
        check_https(serve_file(path, http=https | {"ssl_keyfile": str(other)}))
