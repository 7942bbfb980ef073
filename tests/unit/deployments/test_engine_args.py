"""What engines are started with, whatever the model."""

from __future__ import annotations

import pytest

from deployments.engine_args import engine_kwargs
from deployments.schema import ModelSpec

TARGET = {"source": "models/demo-target"}


def kwargs_of(**target: object) -> dict[str, object]:
    spec = {"id": "demo", "placement": "off", "target": TARGET | target}
    return engine_kwargs(ModelSpec.model_validate(spec), None)


def test_weights_are_safetensors_and_no_code_comes_with_them():
    kwargs = kwargs_of()
    assert kwargs["load_format"] == "safetensors"
    assert "trust_remote_code" not in kwargs


@pytest.mark.parametrize("name", ["load_format", "trust_remote_code"])
def test_only_the_settings_own_word_changes_that(name):
    assert kwargs_of(engine_kwargs={name: "asked"})[name] == "asked"
