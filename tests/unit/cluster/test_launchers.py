"""Launchers: filled in, as Ray's own validator sees them, and what it does not see."""

from __future__ import annotations

import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.cli import main
from cluster.launchers import LauncherError, check_cluster, describe, render, template_names
from cluster.launchers.parameters import KINDS, Parameter
from cluster.launchers.templates import parameters, read_template

GIVEN = {
    "local": {"head_ip": "10.0.0.1", "worker_ips": "10.0.0.2,10.0.0.3", "ssh_user": "me"},
    "dgx-spark-2x": {
        "head_ip": "192.168.100.10",
        "worker_ips": "192.168.100.11",
        "external_head_ip": "spark-a.local",
        "ssh_user": "me",
    },
    "aws-gpu": {
        "image": "registry.example.com/dspark:0.1.0-cuda",
        "region": "us-east-1",
        "availability_zone": "us-east-1a",
        "ami": "ami-0",
        "security_group": "sg-0",
        "subnet": "subnet-0",
    },
}


def test_every_launcher_is_tested_here():
    assert template_names() == sorted(GIVEN)


@pytest.mark.parametrize("name", GIVEN)
def test_ray_takes_every_launcher(name):
    prepared = check_cluster(render(name, GIVEN[name]))
    assert prepared["cluster_name"] == "dspark"
    assert prepared["available_node_types"]


def test_nodes_of_local_clusters_are_all_started():
    prepared = check_cluster(render("local", GIVEN["local"]))
    (node,) = prepared["available_node_types"].values()
    assert (node["min_workers"], prepared["max_workers"]) == (2, 2)


def test_one_machine_is_a_cluster_too():
    alone = GIVEN["local"] | {"worker_ips": ""}
    assert check_cluster(render("local", alone))["max_workers"] == 0


@pytest.mark.parametrize("name", GIVEN)
def test_what_is_written_is_read_back(name):
    cluster = render(name, GIVEN[name])
    assert yaml.safe_load(yaml.safe_dump(cluster)) == cluster
    assert "{{" not in yaml.safe_dump(cluster)


@pytest.mark.parametrize("name", GIVEN)
def test_defaults_are_of_their_kind_and_every_parameter_is_described(name):
    text = describe(name)
    for parameter in parameters(read_template(name)).values():
        assert f"{parameter.name}=" in text
        if parameter.default is not None:
            parameter.value(parameter.default)


def commands(name: str) -> list[str]:
    cluster = render(name, GIVEN[name])
    return [c for key, value in cluster.items() if key.endswith("_commands") for c in value]


@pytest.mark.parametrize("name", GIVEN)
def test_commands_are_shell(name):
    for command in commands(name):
        subprocess.run(["bash", "-n", "-c", command], check=True, timeout=10)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("address", "10.0.0.1;reboot"),
        ("addresses", "10.0.0.1,$(id)"),
        ("count", "-1"),
        ("devices", "rocep1s0f1 roceP2p1s0f1"),
        ("image", "dspark"),
        ("image", "dspark:`id`"),
        ("interface", "eth0 mtu"),
        ("name", "a b"),
        ("path", "/models; rm"),
        ("share", "1.5"),
        ("switch", "2"),
    ],
)
def test_a_value_that_could_change_a_command_is_refused(kind, text):
    with pytest.raises(LauncherError, match=r"p=.*is not an?"):
        Parameter("p", kind, "about").value(text)


def test_every_kind_is_used():
    used = {p.kind for name in GIVEN for p in parameters(read_template(name)).values()}
    assert used == KINDS.keys()


def test_what_is_missing_or_unknown_is_named():
    with pytest.raises(LauncherError, match=r"local needs:\n  head_ip=\.\.\..*\n  worker_ips="):
        render("local", {"ssh_user": "me"})
    with pytest.raises(LauncherError, match="local has no haed_ip; it has cluster_name, head_ip"):
        render("local", {"haed_ip": "10.0.0.1"})
    with pytest.raises(LauncherError, match="no launcher 'spark'; there are aws-gpu, dgx-spark-2x"):
        render("spark", {})


def broken(name: str, path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    cluster = copy.deepcopy(render(name, GIVEN[name]))
    node = cluster
    for key in path[:-1]:
        node = node[key]
    if value is None:
        del node[path[-1]]
    else:
        node[path[-1]] = value
    return cluster


HEAD, WORKER = ("head_start_ray_commands", -1), ("worker_start_ray_commands", -1)
TOKEN_FREE = "ray start --head --port=6379 --dashboard-host=127.0.0.1 --autoscaling-config=x"
OPEN = "RAY_AUTH_MODE=token ray start --head --port=6379 --autoscaling-config=x"


@pytest.mark.parametrize(
    ("name", "path", "value", "fault"),
    [
        ("local", ("max_worker",), 1, "Ray refuses the file: .*'max_worker' was unexpected"),
        ("local", ("provider", "head_ip"), None, "Ray refuses the file: .*head_ip"),
        ("local", ("provider", "head_ip"), "10.0.0.2", r"10\.0\.0\.2 is named twice"),
        ("local", ("max_workers",), 1, "Ray refuses the file: .*`max_workers` is smaller"),
        ("local", ("auth", "ssh_user"), None, "auth.ssh_user is missing"),
        ("local", ("file_mounts", "~/.ray/auth_token"), None, "file_mounts lack ~/.ray/auth_token"),
        ("local", HEAD, TOKEN_FREE, "`ray start` without RAY_AUTH_MODE=token"),
        ("local", HEAD, OPEN, "set --dashboard-host=127.0.0.1"),
        ("local", HEAD, "echo", "head_start_ray_commands start no Ray"),
        ("local", WORKER, "RAY_AUTH_MODE=token ray start", r"join --address=\$RAY_HEAD_IP:6379"),
        ("local", WORKER, "RAY_AUTH_MODE=token ray start --resources={a", "is not JSON"),
        ("aws-gpu", ("setup_commands",), None, "setup_commands would install packages"),
        ("aws-gpu", ("docker", "image"), "registry:5000/dspark", "docker.image has no tag"),
        ("aws-gpu", ("docker", "run_options"), [], "`ray start` without RAY_AUTH_MODE=token"),
        (
            "dgx-spark-2x",
            ("docker", "run_options"),
            ["--device=/dev/infiniband", "--env=RAY_AUTH_MODE=token"],
            "takes docker.run_options --cap-add=IPC_LOCK --ulimit=memlock=-1:-1",
        ),
    ],
)
def test_what_would_not_come_up_or_be_open_is_refused(name, path, value, fault):
    with pytest.raises(LauncherError, match=fault):
        check_cluster(broken(name, path, value))


TLS_NAMES = ("RAY_USE_TLS", "RAY_TLS_CA_CERT", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY")


@pytest.mark.parametrize("tls", ["0", "1"])
@pytest.mark.parametrize("name", ["local", "dgx-spark-2x"])
def test_every_node_starts_ray_with_the_same_word_on_tls(name, tls):
    cluster = render(name, GIVEN[name] | {"tls": tls, "tls_files": "/where"})
    everywhere = cluster.get("docker", {}).get("run_options", [])
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (start,) = (c for c in cluster[key] if "ray start" in c)
        before = " ".join([*everywhere, start.partition("ray start")[0]])
        said = dict(re.findall(r"(RAY_(?:USE_TLS|TLS_\w+))=(\S+)", before))
        assert said.keys() == set(TLS_NAMES)
        assert said["RAY_USE_TLS"] == tls
        files = "/tls" if name == "dgx-spark-2x" else "/where"
        assert said["RAY_TLS_SERVER_KEY"] == f"{files}/node.key"
    if everywhere:
        assert "--volume=/where:/tls:ro" in everywhere


@pytest.mark.parametrize("name", ["local", "dgx-spark-2x"])
def test_a_node_that_lacks_a_file_for_tls_is_stopped(name, tmp_path):
    def run(tls: str) -> tuple[int, str]:
        cluster = render(name, GIVEN[name] | {"tls": tls, "tls_files": str(tmp_path)})
        (guard,) = (c for c in cluster["initialization_commands"] if "node.key" in c)
        done = subprocess.run(["bash", "-c", guard], capture_output=True, text=True, timeout=10)
        return done.returncode, done.stdout

    assert run("0") == (0, "")
    for file in ("ca.crt", "node.crt"):
        (tmp_path / file).touch()
    status, said = run("1")
    assert status == 1
    assert said.startswith(f"GUARD {tmp_path}/node.key cannot be read")
    (tmp_path / "node.key").touch()
    assert run("1") == (0, "")


class Spark:
    """A machine's files as the guards see them, below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.write("sys/class/net/enp1s0f1np1/mtu", "9000")
        for device in ("rocep1s0f1", "roceP2p1s0f1"):
            self.write(f"sys/class/infiniband/{device}/ports/1/state", "4: ACTIVE")
        self.write("proc/meminfo", "MemTotal: 127600000 kB\nMemAvailable: 120000000 kB\n")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text + "\n")

    def run(self, guard: str) -> tuple[int, str]:
        """Exit status and words of the launcher's command that mentions `guard`."""
        (command, *_) = (c for c in commands("dgx-spark-2x") if guard in c)
        here = re.sub(r"(?<![\w.])/(sys|proc)/", rf"{self.root}/\1/", command)
        done = subprocess.run(["bash", "-c", here], capture_output=True, text=True, timeout=10)
        return done.returncode, done.stdout


def test_guards_let_a_healthy_spark_through(tmp_path):
    spark = Spark(tmp_path)
    for guard in ("/mtu", "infiniband/$", "meminfo"):
        assert spark.run(guard) == (0, "")


@pytest.mark.parametrize(
    ("guard", "path", "text", "said"),
    [
        ("/mtu", "sys/class/net/enp1s0f1np1/mtu", "1500", "GUARD MTU of enp1s0f1np1 is 1500"),
        (
            "infiniband/$",
            "sys/class/infiniband/roceP2p1s0f1/ports/1/state",
            "1: DOWN",
            "GUARD roceP2p1s0f1: 1: DOWN",
        ),
        (
            "meminfo",
            "proc/meminfo",
            "MemAvailable: 52428800 kB",
            "GUARD 50 GiB available, 100 needed",
        ),
    ],
)
def test_guards_name_what_is_wrong(guard, path, text, said, tmp_path):
    spark = Spark(tmp_path)
    spark.write(path, text)
    status, words = spark.run(guard)
    assert status == 1
    assert words.startswith(said)


def test_a_device_that_drifted_away_is_named(tmp_path):
    spark = Spark(tmp_path)
    (tmp_path / "sys/class/infiniband/rocep1s0f1/ports/1/state").unlink()
    status, words = spark.run("infiniband/$")
    assert status == 1
    assert words.startswith("GUARD rocep1s0f1: cat:")


def test_the_command_prints_a_file_that_ray_takes(capsys):
    assert main(["launcher", "local", *(f"{k}={v}" for k, v in GIVEN["local"].items())]) == 0
    check_cluster(yaml.safe_load(capsys.readouterr().out))


def test_the_command_says_what_is_wrong(capsys):
    assert main(["launcher", "local", "head_ip"]) == 1
    assert capsys.readouterr().err == "dspark launcher: head_ip: not NAME=VALUE\n"


def test_the_command_lists_what_launchers_need(capsys):
    assert main(["launcher", "local"]) == 0
    assert capsys.readouterr().out.startswith("local\n  cluster_name=[dspark]")
