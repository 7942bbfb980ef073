"""Whether commands of Ray, Serve, kubectl and docker can be run as they stand, without any of them:
by the parsers of Ray and Serve themselves, and by what our manifests and image have."""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import click
import yaml
from ray.scripts.scripts import cli as ray_cli
from ray.serve.scripts import cli as serve_cli

GROUPS: dict[str, click.Command] = {"ray": ray_cli, "serve": serve_cli}
DOCKERFILE = Path("k8s/Dockerfile")
VERSION = tomllib.loads(Path("pyproject.toml").read_text())["project"]["version"]
NAMESPACE = "dspark"
_KINDS = {"rayservice": "RayService", "job": "Job", "service": "Service"}
_BY_OPERATOR = {("Service", "dspark-serve-svc")}  # KubeRay's, of the RayService dspark


def fault_of_click(program: str, words: Sequence[str]) -> str | None:
    """As `program` would parse them. A subcommand alone need not be complete."""
    command, rest = GROUPS[program], list(words)
    context = click.Context(command, info_name=program)
    try:
        while isinstance(command, click.Group) and rest:
            name, found, rest = command.resolve_command(context, rest)
            assert found is not None
            command, context = found, click.Context(found, context, info_name=name)
        if rest:
            command.make_context(context.info_name, rest, parent=context.parent)
    except click.ClickException as error:
        return error.format_message()
    return None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(message)


def _kubectl() -> _Parser:
    """Of kubectl what is documented here."""
    parser = _Parser("kubectl", add_help=False)
    parser.add_argument("--namespace", choices=[NAMESPACE])
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    create = verbs.add_parser("create").add_subparsers(dest="kind", required=True)
    create.add_parser("namespace").add_argument("name", choices=[NAMESPACE])
    secret = create.add_parser("secret")
    secret.add_argument("type", choices=["generic"])
    secret.add_argument("secret")
    secret.add_argument("--from-literal", action="append", default=[])
    secret.add_argument("--from-file", action="append", default=[])
    secret.add_argument("--dry-run", choices=["client", "server"])
    secret.add_argument("--output", choices=["yaml", "json"])
    apply = verbs.add_parser("apply")
    apply.add_argument("--dry-run", choices=["client", "server"])
    what = apply.add_mutually_exclusive_group(required=True)
    what.add_argument("-k", dest="directory", type=Path)
    what.add_argument("-f", dest="file")
    wait = verbs.add_parser("wait")
    wait.add_argument("--for", dest="awaited", required=True)
    wait.add_argument("--timeout", required=True)
    wait.add_argument("resource")
    forward = verbs.add_parser("port-forward")
    forward.add_argument("resource")
    forward.add_argument("port", type=int)
    verbs.add_parser("logs").add_argument("resource")
    describe = verbs.add_parser("describe")
    describe.add_argument("resource", nargs=2)
    return parser


def fault_of_kubectl(words: Sequence[str]) -> str | None:
    try:
        args = _kubectl().parse_args(list(words))
    except ValueError as error:
        return str(error)
    if args.verb == "apply" and args.directory is not None:
        is_there = (args.directory / "kustomization.yaml").is_file()
        return None if is_there else f"{args.directory} is no kustomization"
    if args.verb == "apply":
        return None if args.file == "-" or Path(args.file).is_file() else f"no file {args.file}"
    if getattr(args, "resource", None) is not None:
        named = args.resource if isinstance(args.resource, list) else args.resource.split("/")
        kind, name = _KINDS.get(named[0], ""), named[-1]
        is_there = (kind, name) in _manifests() | _BY_OPERATOR
        return None if is_there else f"no manifest is a {named[0]} named {name}"
    if getattr(args, "secret", None) is not None:
        keys = {one.partition("=")[0] for one in (*args.from_literal, *args.from_file)}
        asked = _secrets().get(args.secret, set())
        return None if keys and keys <= asked else f"no manifest reads {keys} of {args.secret}"
    return None


def _manifests() -> set[tuple[str, str]]:
    """Kind and name of what stands in `k8s/`."""
    return {
        (document["kind"], document["metadata"]["name"])
        for path in Path("k8s").rglob("*.yaml")
        for document in yaml.safe_load_all(path.read_text())
        if isinstance(document, dict) and "kind" in document and "metadata" in document
    }


def _secrets() -> dict[str, set[str]]:
    """The keys that manifests and patches read of each Secret."""
    text = "\n".join(path.read_text() for path in sorted(Path("k8s").rglob("*.yaml")))
    found: dict[str, set[str]] = {}
    for name, key in re.findall(r"secretKeyRef: \{name: ([\w-]+), key: (\w+)", text):
        found.setdefault(name, set()).add(key)
    for name, key in re.findall(r"secretName: ([\w-]+)\n(?:.*\n)?.*items: \[\{key: ([\w.]+)", text):
        found.setdefault(name, set()).add(key)
    for name in re.findall(r"mode: token\n\s+secretName: ([\w-]+)", text):
        found.setdefault(name, set()).add("auth_token")  # which KubeRay reads
    return found


def fault_of_docker(words: Sequence[str]) -> str | None:
    parser = _Parser("docker", add_help=False)
    verbs = parser.add_subparsers(dest="verb", required=True, parser_class=_Parser)
    build = verbs.add_parser("build")
    build.add_argument("-f", dest="file", type=Path, required=True)
    build.add_argument("--target", choices=_stages(), required=True)
    build.add_argument("--build-arg", action="append", default=[])
    build.add_argument("-t", dest="image", required=True)
    build.add_argument("context", choices=["."])
    for verb in ("push", "save"):
        verbs.add_parser(verb).add_argument("image")
    verbs.add_parser("load")
    try:
        args = parser.parse_args(list(words))
    except ValueError as error:
        return str(error)
    image = getattr(args, "image", None)
    if image is not None and not re.fullmatch(rf"(\S+/)?dspark:{re.escape(VERSION)}-\w+", image):
        return f"{image} is no image of version {VERSION}"
    if args.verb != "build":
        return None
    if args.file != DOCKERFILE:
        return f"no Dockerfile {args.file}"
    if not args.image.endswith(f"-{args.target}"):
        return f"{args.image} is built from stage {args.target}"
    unknown = {one.partition("=")[0] for one in args.build_arg} - _build_args()
    return f"the Dockerfile has no {unknown}" if unknown else None


def _stages() -> list[str]:
    return re.findall(r"^FROM \S+ AS (\w+)", DOCKERFILE.read_text(), re.M)


def _build_args() -> set[str]:
    return set(re.findall(r"^ARG (\w+)", DOCKERFILE.read_text(), re.M))
