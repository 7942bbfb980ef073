"""The reference of settings names every setting, and says of each whether it is hot."""

from __future__ import annotations

import re
from pathlib import Path

from autoscale.controls import Controls
from deployments.schema import (
    AppSpec,
    AttachSpec,
    ClassSpec,
    DrafterSpec,
    IngressSpec,
    KeySpec,
    LimitSpec,
    ModelSpec,
    NativeSpec,
    TargetSpec,
    TracingSpec,
)

REFERENCE = Path("deployments/configs/README.md")
ROW = re.compile(r"^\| `([\w.\[\]]+)` \|[^|]*\| (hot|restart) \|", re.MULTILINE)


def test_every_setting_is_listed_once_as_hot_or_restart():
    listed = dict(ROW.findall(REFERENCE.read_text()))
    parts = {"target": TargetSpec, "drafter": DrafterSpec, "native": NativeSpec}
    settings = set(ModelSpec.model_fields) - parts.keys()
    own = {"ingress": IngressSpec, "limits": LimitSpec, "tracing": TracingSpec}
    settings |= AppSpec.model_fields.keys() - own.keys() - {"models", "classes", "keys"}
    beside = own | {"attach": AttachSpec, "classes[]": ClassSpec, "keys[]": KeySpec}
    for part, spec in (parts | beside).items():
        settings |= {f"{part}.{name}" for name in spec.model_fields}
    assert listed.keys() == settings


def test_what_is_hot_is_what_a_control_changes():
    text = REFERENCE.read_text()
    hot = {name.split(".")[-1] for name, kind in ROW.findall(text) if kind == "hot"}
    controls = set(re.findall(r"^\| `(\w+)` \| [^|]+ \|$", text, re.MULTILINE))
    assert hot | (controls & Controls.model_fields.keys()) == set(Controls.model_fields)


def test_every_serve_file_is_listed():
    text = REFERENCE.read_text()
    assert all(f"`{path.name}`" in text for path in REFERENCE.parent.glob("*.yaml"))
