import pytest

from deployments.errors import ConfigError
from deployments.placement import logical_cpus
from deployments.preflight import check_cpus, check_one_machine, gpus_of
from deployments.schema import AppSpec, parse_settings
from tests.unit.deployments.real_models import real_model


@pytest.mark.parametrize(
    ("name", "gpus"),
    [
        ("qwen3-4b", 1),
        ("deepseek-v4-pro", 8),
        ("qwen3-14b-2x-dgx-spark-tp2", 2),
        ("qwen3-14b-2x-dgx-spark-split", 2),
    ],
)
def test_gpus_of_a_models_replicas(name, gpus):
    assert gpus_of(real_model(name)) == gpus


def test_too_few_gpus_are_refused_instead_of_waited_for():
    settings = AppSpec(models=(real_model("deepseek-v4-pro"),))
    check_one_machine(settings, 8)
    with pytest.raises(ConfigError, match="take 8 GPUs and this machine has 0"):
        check_one_machine(settings, 0)


@pytest.mark.parametrize("name", ["qwen3-14b-2x-dgx-spark-tp2", "qwen3-14b-2x-dgx-spark-split"])
def test_a_model_of_several_nodes_asks_for_a_cluster(name):
    with pytest.raises(ConfigError, match=r"start Ray on them and set RAY_ADDRESS"):
        check_one_machine(AppSpec(models=(real_model(name),)), 2)


def demo(**target):
    """Two split targets with one drafter each, and one without speculation."""
    target = {"source": "models/demo-target", "num_cpus": 0.5} | target
    drafter = {"source": "models/demo-drafter", "num_cpus": 0.25, "replicas": 3}
    models = [
        {"id": "drafted", "target": target, "drafter": drafter},
        {"id": "plain", "placement": "off", "target": target},
    ]
    return parse_settings({"models": models})


def test_cpus_are_summed_over_replicas_ranks_and_the_replica_itself():
    assert logical_cpus(demo(replicas=2, tensor_parallel=4)) == {
        "Ingress": 0.1,
        "Target:drafted": 2 * (4 + 1) * 0.5,
        "Drafter:drafted": 0.75,
        "Target:plain": 5.0,
    }


def test_more_cpus_than_ray_has_are_refused_with_the_sum():
    settings = demo(replicas=2, tensor_parallel=4)
    check_cpus(settings, 10.85)
    with pytest.raises(ConfigError) as refused:
        check_cpus(settings, 10.84)
    said = str(refused.value)
    assert "take 10.85 logical CPUs and Ray has 10.84" in said
    assert "Ingress 0.1, Target:drafted 5, Drafter:drafted 0.75, Target:plain 5;" in said
    assert "lower replicas, target.num_cpus or drafter.num_cpus" in said
    check_cpus(demo(replicas=2, tensor_parallel=4, num_cpus=0), 1)
