import pytest

from deployments.errors import ConfigError
from deployments.preflight import check_one_machine, gpus_of
from deployments.schema import AppSpec
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
