"""What is concluded: a healthy Spark has no fault, and each fault is found by its finding alone."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import spark_machines as machines

from cluster.doctor import Evidence, Expected, as_json, as_text, examine, is_broken, joined
from cluster.doctor.collect import collect_node
from cluster.doctor.evidence import (
    Clock,
    Disk,
    Gpu,
    Listener,
    Memory,
    NodeEvidence,
    RayTls,
    ServiceEvidence,
)
from cluster.doctor.network_checks import twin
from cluster.doctor.parse import memory
from cluster.doctor.ray_nodes import asked_clock

SETTINGS = {
    "NCCL_IB_HCA": "rocep1s0f1,roceP2p1s0f1",
    "NCCL_SOCKET_IFNAME": "enp1s0f1np1",
    "GLOO_SOCKET_IFNAME": "enp1s0f1np1",
    "VLLM_HOST_IP": "192.168.100.10",
    "RAY_AUTH_MODE": "token",
}
VERSIONS = {
    "python": "3.12.3",
    "dspark": "0.1.0",
    "ray": "2.60.0",
    "vllm": "0.29.0",
    "torch": "2.13.0+cu130",
    "nccl": "2.28.9",
}


@pytest.fixture
def spark(tmp_path) -> NodeEvidence:
    machine = machines.spark()
    node = collect_node(machine.write(tmp_path), machine.run)
    return replace(
        node,
        node="spark-a",
        memlock_bytes=None,
        environment=SETTINGS,
        versions=VERSIONS,
        has_ray_token=True,
        ray_token_mode=0o600,
        disks=(Disk("checkpoints", "/models", 500 << 10),),
    )


def found(*nodes: NodeEvidence) -> list[tuple[str, str]]:
    """What is not fine: severity and check."""
    findings = examine(Evidence(nodes), Expected())
    return [(f.severity.value, f.check) for f in findings if f.severity != "fine"]


def test_nothing_is_wrong_with_a_healthy_spark(spark):
    assert found(spark) == []
    fine = {f.check for f in examine(Evidence((spark,)), Expected())}
    assert fine == {
        *("driver", "memory", "kernel", "clock", "disk", "versions"),
        *("GID", "MTU", "link speed", "locked memory", "Ray's token"),
    }


def ports(spark: NodeEvidence, **changes: Any) -> dict[str, Any]:
    """With changes of the first half of the port."""
    first, second = spark.rdma
    return {"rdma": (replace(first, **changes), second)}


TLS = RayTls(names=("192.168.100.10", "localhost"), ends_in_days=300, key_mode=0o600)


def environment(**changes: str) -> Any:
    return lambda spark: {"environment": SETTINGS | changes}


def interface(spark: NodeEvidence, **changes: Any) -> dict[str, Any]:
    return {
        "interfaces": tuple(
            replace(i, **changes) if i.name == "enp1s0f1np1" else i for i in spark.interfaces
        )
    }


FAULTS = {
    "a driver that fails": (
        lambda spark: {"gpus": (), "gpu_error": "couldn't communicate"},
        [("broken", "driver")],
    ),
    "a driver older than its packages": (
        lambda spark: {"gpus": (Gpu("NVIDIA GB10", "570.86.10"),)},
        [("broken", "driver")],
    ),
    "page cache of a load": (
        lambda spark: {"memory": memory(machines.MEMINFO_AFTER_A_LOAD)},
        [("broken", "page cache"), ("broken", "memory")],
    ),
    "memory of a process that died": (
        lambda spark: {"memory": Memory(122566, 40 << 10, 1 << 10)},
        [("broken", "memory")],
    ),
    "a kernel with a known fault": (
        lambda spark: {"kernel": "7.0.0-1019-nvidia"},
        [("warning", "kernel")],
    ),
    "a clock that runs free": (
        lambda spark: {"clock": Clock(is_synchronised=False)},
        [("warning", "clock")],
    ),
    "a clock that is off, as asked": (
        lambda spark: {"clock": Clock(True, 0.0, asked_offset_s=-3.0, asked_within_s=0.1)},
        [("warning", "clock")],
    ),
    "no time service": (lambda spark: {"clock": Clock()}, [("unknown", "clock")]),
    "a full disk for sessions": (
        lambda spark: {"disks": (Disk("Ray's session", "/tmp", 100),)},
        [("broken", "disk")],
    ),
    "little room for checkpoints": (
        lambda spark: {"disks": (Disk("checkpoints", "/models", 100),)},
        [("warning", "disk")],
    ),
    "no vLLM": (
        lambda spark: {"versions": VERSIONS | {"vllm": "not installed"}},
        [("broken", "versions")],
    ),
    "another Ray": (
        lambda spark: {"versions": VERSIONS | {"ray": "2.61.0"}},
        [("warning", "versions")],
    ),
    "a RoCE device that drifted": (
        environment(NCCL_IB_HCA="rocep1s0f1,roceP2p1s0f1,rocep1s0f9"),
        [("broken", "RoCE device")],
    ),
    "a cable that came loose": (
        lambda spark: ports(spark, state="DOWN"),
        [("broken", "RoCE device")],
    ),
    "no address on the cable": (
        lambda spark: ports(spark, roce_v2_ipv4_gids=()),
        [("broken", "GID")],
    ),
    "the GID of another kind": (
        environment(NCCL_IB_GID_INDEX="1"),
        [("broken", "GID"), ("broken", "GID")],
    ),
    "an MTU that was reset": (lambda spark: interface(spark, mtu=1500), [("warning", "MTU")]),
    "half the speed": (
        lambda spark: ports(spark, rate_gbit_per_s=100.0),
        [("warning", "link speed")],
    ),
    "one twin alone": (environment(NCCL_IB_HCA="rocep1s0f1"), [("warning", "PCIe twins")]),
    "NCCL left to itself": (environment(NCCL_IB_HCA=""), [("warning", "NCCL")]),
    "locked memory limited": (
        lambda spark: {"memlock_bytes": 8 << 20},
        [("broken", "locked memory")],
    ),
    "an interface of another name": (
        environment(NCCL_SOCKET_IFNAME="enp1s0f0np0"),
        [("broken", "interface")],
    ),
    "the address of the other node": (
        environment(VLLM_HOST_IP="192.168.100.11"),
        [("broken", "interface")],
    ),
    "orders from anybody": (environment(RAY_AUTH_MODE=""), [("broken", "Ray's token")]),
    "a token that is not there": (
        lambda spark: {"has_ray_token": False, "ray_token_mode": None},
        [("broken", "Ray's token")],
    ),
    "a token for all to read": (
        lambda spark: {"ray_token_mode": 0o644},
        [("warning", "Ray's token")],
    ),
    "TLS without its files": (
        lambda spark: {"ray_tls": RayTls(unreadable=("RAY_TLS_SERVER_KEY",))},
        [("broken", "Ray's TLS")],
    ),
    "a certificate for another node": (
        lambda spark: {"ray_tls": RayTls(names=("10.0.0.99",), ends_in_days=300)},
        [("broken", "Ray's TLS")],
    ),
    "a certificate that ended": (
        lambda spark: {"ray_tls": RayTls(names=("192.168.100.10",), ends_in_days=-1)},
        [("broken", "Ray's TLS")],
    ),
    "a certificate that ends soon": (
        lambda spark: {"ray_tls": RayTls(names=("192.168.100.10",), ends_in_days=12.5)},
        [("warning", "Ray's TLS")],
    ),
    "a key for all to read": (
        lambda spark: {"ray_tls": replace(TLS, key_mode=0o644)},
        [("warning", "Ray's TLS")],
    ),
    "an open dashboard": (
        lambda spark: {"listeners": (Listener("0.0.0.0", 8265),)},
        [("warning", "dashboard")],
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_found_and_nothing_else(spark, name):
    change, expected = FAULTS[name]
    assert found(replace(spark, **change(spark))) == expected


@pytest.mark.parametrize("name", FAULTS)
def test_every_finding_says_why_it_matters_and_how_to_mend_it(spark, name):
    change, _ = FAULTS[name]
    for finding in examine(Evidence((replace(spark, **change(spark)),)), Expected()):
        if finding.severity in ("broken", "warning"):
            assert finding.seen
            assert finding.why
            assert finding.mend


def test_while_it_serves_memory_is_taken_rightly(spark):
    taken = replace(spark, memory=memory(machines.MEMINFO_AFTER_A_LOAD))
    service = ServiceEvidence("http://s", ("demo",), None, "demo", 8, 0.5, None, {"models": {}})
    findings = examine(Evidence((taken,), service), Expected())
    assert [f.check for f in findings if f.severity == "broken"] == []


def test_a_gpu_that_something_else_uses():
    node = NodeEvidence(
        "a", gpus=(Gpu("H100", "580.95", 80000, 20000),), memory=Memory(9999, 9999, 0)
    )
    assert ("warning", "GPU memory") in found(node)


def other(spark: NodeEvidence, **changes: Any) -> NodeEvidence:
    """The second Spark, with an address of its own."""
    address = {"VLLM_HOST_IP": "192.168.100.11"}
    own = interface(spark, ipv4=("192.168.100.11",))
    return replace(spark, node="spark-b", **{"environment": SETTINGS | address, **own, **changes})


def test_nodes_that_all_encrypt_are_fine(spark):
    both = (
        replace(spark, ray_tls=TLS),
        other(spark, ray_tls=replace(TLS, names=("192.168.100.11",))),
    )
    assert found(*both) == []


def test_two_that_are_alike(spark):
    assert found(spark, other(spark)) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"versions": VERSIONS | {"nccl": "2.30.7"}}, [("broken", "versions")]),
        ({"gpus": (Gpu("NVIDIA GB10", "580.142"),)}, [("warning", "driver")]),
        ({"kernel": "6.17.0-1021-nvidia"}, [("warning", "kernel")]),
        ({"environment": {**SETTINGS}, "interfaces": ()}, [("broken", "interface")]),
        (
            {"ray_tls": RayTls(names=("192.168.100.11",), ends_in_days=300)},
            [("broken", "Ray's TLS")],
        ),
    ],
)
def test_what_differs_between_two(spark, changes, expected):
    assert found(spark, other(spark, **changes)) == expected


def test_two_ends_of_a_cable_with_different_mtus(spark):
    second = other(spark)
    second = replace(second, **interface(second, mtu=9216))
    assert found(spark, second) == [("broken", "MTU")]


def test_twins():
    assert twin("rocep1s0f1") == "roceP2p1s0f1"
    assert twin("roceP2p1s0f0") == "rocep1s0f0"
    assert twin("mlx5_0") is None


def test_a_clock_read_in_the_middle_of_an_answer(monkeypatch):
    monkeypatch.setattr("cluster.doctor.ray_nodes.time.time", lambda: 102.0)
    clock = asked_clock(Clock(), began_s=100.0, there_s=106.0)
    assert (clock.asked_offset_s, clock.asked_within_s) == (5.0, 1.0)


def test_what_is_broken_comes_first_and_is_counted(spark):
    sick = replace(spark, ray_token_mode=0o644, memlock_bytes=1 << 20)
    findings = examine(Evidence((sick,)), Expected())
    lines = as_text(findings).splitlines()
    assert lines[0] == "broken   spark-a: locked memory: limited to 1024 KiB"
    assert lines[1].startswith("         why:  ")
    assert lines[3].startswith("warning  spark-a: Ray's token")
    assert lines[-1].startswith("1 broken, 1 warning, 0 unknown, ")
    document = json.loads(as_json(findings))
    assert document["broken"] is is_broken(findings) is True
    assert document["findings"][0]["mend"].startswith("`--ulimit memlock=-1`")


def test_files_of_several_nodes_are_one_record(spark):
    service = ServiceEvidence("http://s")
    record = joined([Evidence((spark,)), Evidence((other(spark),), service)])
    assert ([n.node for n in record.nodes], record.service) == (["spark-a", "spark-b"], service)
