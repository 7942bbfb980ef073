"""Every command in the documents, of ours and of Ray, kubectl and docker, is one that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documented import Command, commands
from other_programs import fault_of_click, fault_of_docker, fault_of_kubectl

from cluster.cli import build_parser

PLACES = (
    "*.md",
    "docs/*.md",
    "k8s/*.md",
    "cluster/**/*.md",
    "deployments/**/*.md",
    "models/*/*.md",
)
DOCUMENTS = sorted(str(path) for place in PLACES for path in Path().glob(place))
ALL = [found for name in DOCUMENTS for found in commands(name, Path(name).read_text())]
MAKEFILE = Path("Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.M))
VARIABLES = set(re.findall(r"^([A-Z_]+) \?=", MAKEFILE, re.M))


def names() -> set[str]:
    (subparsers,) = (a for a in build_parser()._actions if hasattr(a, "choices") and a.choices)
    return set(subparsers.choices)  # type: ignore[arg-type]


def fault(command: Command) -> str | None:
    """Why a command cannot be run as it stands; None where it can.

    A name alone is what a command is called, and need not be complete.
    """
    if command.program == "make":
        words = [word for word in command.words if not word.startswith("-")]
        settings = {word.partition("=")[0] for word in words if "=" in word}
        unknown = sorted({w for w in words if "=" not in w} - TARGETS | settings - VARIABLES)
        return f"the Makefile has no {', '.join(unknown)}" if unknown else None
    if command.program in ("ray", "serve"):
        return fault_of_click(command.program, command.words)
    if command.program == "kubectl":
        return fault_of_kubectl(command.words)
    if command.program == "docker":
        return fault_of_docker(command.words)
    if len(command.words) <= 1:
        known = set(command.words) <= names() | {"--help"}
        return None if known else f"there is no dspark {command.words[0]}"
    try:
        build_parser().parse_args(list(command.words))
    except SystemExit as ended:
        return None if ended.code == 0 else "dspark does not take these arguments"
    return None


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_can_be_run_as_it_stands(document, capsys):
    for command in ALL:
        if command.where == document:
            assert fault(command) is None, f"{command}: {capsys.readouterr().err}"


def test_they_are_found():
    found = {str(command).partition(": ")[2] for command in ALL}
    assert "make serve" in found
    assert "dspark serve --config deployments/configs/demo-colocated.yaml --port 9000" in found
    assert "dspark set demo policy={kind: fixed, k: 3} deadline_ms=20 max_draft_tokens=4" in found
    within = "dspark prefetch --ray --config deployments/configs/qwen3-14b-2x-dgx-spark-tp2.yaml"
    assert within in found  # quoted, over two lines, behind `ray exec`
    assert "serve deploy deployments/configs/qwen3-14b-2x-dgx-spark-tp2.yaml" in found
    assert "ray up -y cluster.yaml" in found
    assert "kubectl apply -k k8s/overlays/cpu-demo" in found
    assert "docker load" in found  # behind `ssh`
    assert len(found) > 100


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("x\n\n    dspark status  # it's so\n", ["dspark status"]),
        ("x\n\n    a && dspark status | head > f\n", ["dspark status"]),
        ("x\n\n    dspark bench \\\n      --quick\n", ["dspark bench --quick"]),
        ("```sh\nmake serve EXTRA=cuda\n```\n", ["make serve EXTRA=cuda"]),
        ("so `dspark\nstatus` it is, `dsparks`\n", ["dspark status"]),
        ("x\n\n    ssh b dspark doctor --collect > b.json\n", ["dspark doctor --collect"]),
        (
            "x\n\n    ray exec c.yaml 'X=1 dspark status'\n",
            ["ray exec c.yaml X=1 dspark status", "dspark status"],
        ),
        ("x\n\n    docker save x | ssh b docker load\n", ["docker save x", "docker load"]),
        ("x\n\n    cd dspark\n    curl http://h/dspark\n", []),
    ],
)
def test_how_they_are_found(text, found):
    assert [str(c).partition(": ")[2] for c in commands("x.md", text) if c.words] == found


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("dspark", ["serv"]),
        ("dspark", ["serve", "--prot", "1"]),
        ("dspark", ["bench", "--rounds", "many"]),
        ("dspark", ["canary", "D", "--share", "500%"]),
        ("make", ["server"]),
        ("make", ["serve", "EXTRAS=cuda"]),
        ("ray", ["ups", "cluster.yaml"]),
        ("ray", ["up", "--yes-please", "cluster.yaml"]),
        ("ray", ["exec", "cluster.yaml"]),
        ("ray", ["start", "--num-gpus", "one"]),
        ("serve", ["deploy", "--dry", "serve.yaml"]),
        ("serve", ["redeploy"]),
        ("kubectl", ["apply", "-k", "k8s/overlays/tpu"]),
        ("kubectl", ["apply", "-f", "k8s/secrets.yaml"]),
        ("kubectl", ["logs", "job/dspark-fetch"]),
        ("kubectl", ["--namespace", "ray", "create", "namespace", "dspark"]),
        ("kubectl", ["create", "secret", "generic", "dspark-redis", "--from-literal=token=x"]),
        ("kubectl", ["create", "secret", "generic", "dspark-keys", "--from-file=keys.yaml"]),
        ("kubectl", ["wait", "rayservice/dspark"]),
        ("docker", ["build", "-f", "Dockerfile", "--target", "cpu", "-t", "dspark:0.1.0-cpu", "."]),
        ("docker", ["build", "-f", "k8s/Dockerfile", "--target", "gpu", "-t", "x", "."]),
        ("docker", ["push", "dspark:latest"]),
    ],
)
def test_a_command_that_is_none_is_a_fault(program, words, capsys):
    assert fault(Command("x.md", program, tuple(words))) is not None


def test_every_command_is_in_the_readme():
    said = {c.words[0] for c in ALL if c.where == "README.md" and c.program == "dspark" and c.words}
    assert names() - said == set()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_that_is_named_is_there(document):
    text = Path(document).read_text()
    named = set(
        re.findall(
            r"(?<![\w/])((?:deployments/configs|tests|loadtest/configs|docs)/[\w./-]+\.\w+)", text
        )
    )
    assert {name for name in named if not Path(name).exists()} == set()
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text)
    assert {link for link in links if not (Path(document).parent / link).exists()} == set()
