"""What is read off a machine: files and outputs of a healthy one, and of machines with faults."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest
import spark_machines as machines

from cluster.doctor.collect import collect_node
from cluster.doctor.evidence import (
    Clock,
    Evidence,
    EvidenceError,
    Gpu,
    Interface,
    Listener,
    Memory,
    RdmaPort,
    read_evidence,
)
from cluster.doctor.parse import (
    certificate,
    clock,
    gpus,
    is_roce_v2_ipv4,
    listeners,
    memory,
    port_rate,
)

LAUNCHERS_README = Path("cluster/launchers/README.md").read_text()


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """The environment of a node as our launcher makes it."""
    monkeypatch.setenv("NCCL_IB_HCA", "rocep1s0f1,roceP2p1s0f1")
    monkeypatch.setenv("NCCL_DEBUG_SECRET", "planted")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    for name in ("RAY_AUTH_TOKEN", "HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "token")


def test_a_healthy_spark(tmp_path, settings):
    spark = machines.spark()
    node = collect_node(spark.write(tmp_path), spark.run)
    assert node.kernel == "6.17.0-1014-nvidia"
    assert node.os == "Ubuntu 24.04.4 LTS"
    assert node.gpus == (Gpu("NVIDIA GB10", "580.126.09"),)
    assert node.is_unified
    assert node.memory == Memory(122566, 114688, 4146)
    assert node.rdma == (
        RdmaPort("roceP2p1s0f1", "ACTIVE", 200.0, "enP2p1s0f1np1", (3,)),
        RdmaPort("rocep1s0f1", "ACTIVE", 200.0, "enp1s0f1np1", (3,)),
    )
    assert node.interfaces[1] == Interface("enp1s0f1np1", 9000, True, 200000, ("192.168.100.10",))
    assert node.clock == Clock(is_synchronised=True, offset_s=-0.000023111)
    assert node.listeners == (
        Listener("0.0.0.0", 6379),
        Listener("::", 8000),
        Listener("192.168.100.10", 10001),
    )
    assert node.environment == {
        "NCCL_IB_HCA": "rocep1s0f1,roceP2p1s0f1",
        "RAY_AUTH_MODE": "token",
    }
    assert (node.has_ray_token, node.ray_token_mode) == (False, None)
    assert node.unknown == ()


def test_a_machine_without_any_of_it(tmp_path):
    node = collect_node(tmp_path, machines.Machine().run)
    assert (node.gpus, node.gpu_error, node.memory, node.rdma) == ((), None, None, ())
    assert node.clock == Clock()
    assert node.unknown == ("ip: not found", "timedatectl: not found")


def test_a_driver_that_does_not_answer(tmp_path):
    broken = machines.Machine(answers={"nvidia-smi": (9, machines.SMI_FAILED)})
    node = collect_node(tmp_path, broken.run)
    assert node.gpus == ()
    assert node.gpu_error == machines.SMI_FAILED.strip()


def test_a_driver_that_hangs(tmp_path):
    def hang(command):
        raise subprocess.TimeoutExpired(command, 10)

    node = collect_node(tmp_path, hang)
    assert node.gpu_error == "nvidia-smi did not answer within 10 s"
    assert node.unknown == ("ip: hangs", "timedatectl: hangs")


def test_gpus_with_memory_of_their_own():
    assert gpus(machines.SMI_H100) == (
        Gpu("NVIDIA H100 80GB HBM3", "580.95.05", 81559, 4),
        Gpu("NVIDIA H100 80GB HBM3", "580.95.05", 81559, 0),
    )


def test_shared_memory_is_no_page_cache():
    assert memory(
        "MemTotal: 2048 kB\nMemAvailable: 1024 kB\nCached: 2048 kB\nShmem: 1024 kB\n"
    ) == (Memory(2, 1, 1))
    assert memory("MemTotal: 2048 kB\n") is None


@pytest.mark.parametrize(
    ("chronyc", "timedatectl", "found"),
    [
        (machines.CHRONY_LOST, None, Clock(False, None)),
        (machines.CHRONY.replace("slow", "fast"), None, Clock(True, 0.000023111)),
        ("506 Cannot talk to daemon", "NTPSynchronized=no\n", Clock(False)),
        (None, "NTPSynchronized=yes\n", Clock(True)),
        (None, None, Clock()),
    ],
)
def test_clocks(chronyc, timedatectl, found):
    assert clock(chronyc, timedatectl) == found


@pytest.mark.parametrize(
    ("gid", "kind", "is_one"),
    [
        (*machines.GIDS[0], False),
        (*machines.GIDS[1], False),
        (*machines.GIDS[2], False),
        (*machines.GIDS[3], True),
        ("0000:0000:0000:0000:0000:0000:0000:0000", "RoCE v2", False),
        ("", "", False),
    ],
)
def test_only_ipv4_under_v2_is_what_nccl_routes_by(gid, kind, is_one):
    assert is_roce_v2_ipv4(gid, kind) is is_one


def test_only_sockets_that_listen():
    assert listeners(machines.TCP) == (Listener("0.0.0.0", 6379), Listener("127.0.0.1", 8265))
    assert [one.is_local for one in listeners(machines.TCP)] == [False, True]


def test_rates():
    assert port_rate("200 Gb/sec (4X HDR)") == 200.0
    assert port_rate("2.5 Gb/sec (1X SDR)") == 2.5
    assert port_rate("") is None


def test_evidence_is_read_back_as_it_was(tmp_path):
    spark = machines.spark()
    evidence = Evidence((collect_node(spark.write(tmp_path), spark.run),))
    assert read_evidence(evidence.to_json(), "spark.json") == evidence


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "a.json is not JSON"),
        ("[]", "not from `dspark doctor --collect`"),
        ('{"format": "dspark-doctor-0", "nodes": []}', "not from `dspark doctor --collect`"),
        (
            json.dumps({"format": "dspark-doctor-1", "nodes": [{"node": "a", "kernel": 6}]}),
            r"a.json: nodes.0.kernel: .*string",
        ),
    ],
)
def test_what_is_no_evidence_is_refused(text, why):
    with pytest.raises(EvidenceError, match=why):
        read_evidence(text, "a.json")


@pytest.mark.parametrize(
    ("of_ray", "shell", "seen"),
    [
        ("RAY_AUTH_MODE=token\0PATH=/bin\0", None, "token"),
        ("PATH=/bin\0", "token", None),  # started without; a later shell means nothing
        ("RAY_AUTH_MODE=disabled\0", "token", "disabled"),
        ("", "token", "token"),  # somebody else's process
    ],
)
def test_whether_a_token_is_asked_for_is_said_by_the_ray_that_runs(
    tmp_path, monkeypatch, of_ray, shell, seen
):
    for pid, name, environment in (("7", "bash", "RAY_AUTH_MODE=no"), ("8", "raylet", of_ray)):
        process = tmp_path / "proc" / pid
        process.mkdir(parents=True)
        (process / "comm").write_text(name + "\n")
        (process / "environ").write_text(environment)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if shell is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", shell)
    node = collect_node(tmp_path, machines.Machine().run)
    assert node.environment.get("RAY_AUTH_MODE") == seen


def test_what_openssl_says_of_a_certificate():
    said = (
        "notAfter=Nov 27 07:00:00 2027 GMT\nX509v3 Subject Alternative Name: \n"
        "    DNS:localhost, IP Address:127.0.0.1, IP Address:192.168.100.10\n"
    )
    assert certificate(said) == (("localhost", "127.0.0.1", "192.168.100.10"), 1827298800)
    assert certificate("") == ((), None)


@pytest.fixture
def encrypted(tmp_path, monkeypatch):
    """Where Ray's three files are, as the launchers' README makes them."""
    recipe = re.search(r"((?: {4}.*\n)*? {4}openssl req -x509(?:.*\n)+?)\n", LAUNCHERS_README)
    assert recipe is not None
    script = recipe[1].replace("192.168.100.11", "127.0.0.2")
    subprocess.run(
        ["bash", "-ec", script], cwd=tmp_path, check=True, capture_output=True, timeout=60
    )
    files = {"CA_CERT": "ca.crt", "SERVER_CERT": "node.crt", "SERVER_KEY": "node.key"}
    for name, file in files.items():
        monkeypatch.setenv(f"RAY_TLS_{name}", str(tmp_path / "tls" / file))
    monkeypatch.setenv("RAY_USE_TLS", "1")
    return tmp_path / "tls"


def real_openssl(command: list[str]) -> tuple[int, str]:
    if command[0] != "openssl":
        raise FileNotFoundError
    done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    return done.returncode, done.stdout


def test_certificates_made_as_documented_are_read(encrypted, tmp_path):
    tls = collect_node(tmp_path, real_openssl).ray_tls
    assert tls is not None
    assert tls.unreadable == ()
    assert {"192.168.100.10", "127.0.0.2", "127.0.0.1", "localhost"} == set(tls.names)
    assert tls.ends_in_days is not None
    assert 300 < tls.ends_in_days < 1200
    assert tls.key_mode == 0o600
    verified = subprocess.run(
        ["openssl", "verify", "-CAfile", "ca.crt", "node.crt"],
        cwd=encrypted,
        capture_output=True,
        timeout=10,
    )
    assert verified.returncode == 0


def test_files_that_ray_would_not_find_are_named(encrypted, tmp_path):
    (encrypted / "node.key").unlink()
    tls = collect_node(tmp_path, real_openssl).ray_tls
    assert tls is not None
    assert tls.unreadable == ("RAY_TLS_SERVER_KEY",)


def test_without_the_setting_ray_does_not_encrypt(encrypted, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_USE_TLS", "0")
    assert collect_node(tmp_path, real_openssl).ray_tls is None
