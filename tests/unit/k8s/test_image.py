"""The Dockerfile builds what the manifests and launchers run."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

PYPROJECT = tomllib.loads(Path("pyproject.toml").read_text())
DOCKERFILE = Path("k8s/Dockerfile").read_text()
IGNORE = Path("k8s/Dockerfile.dockerignore").read_text().splitlines()


def test_its_python_is_one_that_the_project_takes():
    (python,) = re.findall(r"^ARG PYTHON=(3\.\d+)$", DOCKERFILE, re.MULTILINE)
    assert python in ("3.11", "3.12")
    assert PYPROJECT["project"]["requires-python"] == ">=3.11,<3.13"


@pytest.mark.parametrize("build", ["cpu", "cuda"])
def test_each_build_installs_its_extra_and_runs_as_nobody_special(build):
    (stage,) = re.findall(rf"^FROM base AS {build}$(.*?)(?=^FROM|\Z)", DOCKERFILE, re.M | re.S)
    (extras,) = re.findall(r"--editable '\.\[([\w,]+)\]'", stage)
    assert build in extras.split(",")
    assert set(extras.split(",")) <= PYPROJECT["project"]["optional-dependencies"].keys()
    assert stage.rstrip().endswith("USER 1000")


def test_versions_come_from_the_project_alone():
    assert not re.search(r"(ray|vllm|torch)\S*==", DOCKERFILE)


def test_everything_that_is_served_or_imported_is_in_it():
    taken = {line.removeprefix("!") for line in IGNORE if line.startswith("!")}
    assert IGNORE[0] == "*"
    assert all(Path(name).exists() for name in taken)
    packages = PYPROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in packages} | {"models", "pyproject.toml"} <= taken


def test_tags_in_use_are_the_projects_version():
    version = PYPROJECT["project"]["version"]
    texts = [DOCKERFILE, *(p.read_text() for p in Path("cluster/launchers").glob("*.yaml"))]
    tags = {tag for text in texts for tag in re.findall(r"dspark:(\d[\w.]*)-(?:cpu|cuda)", text)}
    assert tags == {version}


def test_every_overlay_takes_one_of_its_builds():
    for path in Path("k8s/overlays").glob("*/kustomization.yaml"):
        (image,) = yaml.safe_load(path.read_text())["images"]
        assert image["newTag"].rpartition("-")[2] in ("cpu", "cuda")


@pytest.mark.parametrize(
    "needed",
    [
        "wget",  # KubeRay's probes
        "rsync",  # Ray's launcher, into the container and from the head to workers
        "openssh-client",
        "iproute2",  # the Spark's own address
        "/etc/profile.d/venv.sh",  # login shells
        "ENV HOME=/home/ray",  # where the launcher mounts the token
    ],
)
def test_what_starts_it_finds_what_it_needs(needed):
    assert needed in DOCKERFILE
