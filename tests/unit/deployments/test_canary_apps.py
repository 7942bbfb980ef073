"""Which applications are canaries', and which of them are taken away by whom."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from fastapi import HTTPException
from ray.serve.schema import ApplicationStatus

from deployments import canary_apps, controller, ingress
from deployments.canary_apps import remove_canary, remove_unwanted
from deployments.controller import ControllerKeeper
from deployments.ingress import FleetIngress

RUNNING, FAILED, DELETING = (
    ApplicationStatus.RUNNING,
    ApplicationStatus.DEPLOY_FAILED,
    ApplicationStatus.DELETING,
)


class FakeServe:
    """Applications with the names of their deployments."""

    def __init__(self, **apps):
        self.apps = {
            name.replace("_", "-"): SimpleNamespace(status=status, deployments=dict.fromkeys(names))
            for name, (status, names) in apps.items()
        }
        self.deleted = []

    def status(self):
        return SimpleNamespace(applications=self.apps)

    def delete(self, name, _blocking):
        assert not _blocking
        self.deleted.append(name)

    def get_replica_context(self):
        return SimpleNamespace(app_name="app")


def serve_of(monkeypatch, **apps):
    served = FakeServe(**apps)
    for module in (canary_apps, controller, ingress):
        monkeypatch.setattr(module, "serve", served)
    return served


def removed(monkeypatch, kept, **apps):
    async def answer():
        return kept

    served = serve_of(monkeypatch, **apps)
    asyncio.run(remove_unwanted("app", answer))
    return served.deleted


APPS = {
    "app": (RUNNING, ["Ingress", "Target:demo", "Drafter:demo"]),
    "app_canary_demo": (RUNNING, ["Drafter:demo"]),
    "app_canary_big": (FAILED, ["Drafter:big"]),
}


def test_what_no_canary_is_left_for_is_removed_also_where_it_failed(monkeypatch):
    assert removed(monkeypatch, {"demo"}, **APPS) == ["app-canary-big"]
    assert removed(monkeypatch, set(), **APPS) == ["app-canary-demo", "app-canary-big"]


def test_nothing_is_removed_before_it_is_known_what_was_promoted(monkeypatch):
    assert removed(monkeypatch, None, **APPS) == []


@pytest.mark.parametrize(
    "app",
    [(RUNNING, ["Ingress", "Target:demo", "Drafter:demo"]), (DELETING, ["Drafter:demo"])],
    ids=["only called like one", "being deleted"],
)
def test_other_applications_are_left_alone(monkeypatch, app):
    assert removed(monkeypatch, set(), app_canary_demo=app) == []
    assert not remove_canary("app", "demo")


def test_a_canary_is_known_before_its_replicas_are_looked_up(monkeypatch):
    """One that began in between is among those kept, whatever was looked up before."""
    served = serve_of(monkeypatch)

    async def begins():
        served.apps = FakeServe(**APPS).apps
        return set()

    asyncio.run(remove_unwanted("app", begins))
    assert served.deleted == []


def stop(monkeypatch, known, **apps):
    served = serve_of(monkeypatch, **apps)

    async def answer(self, method, model_id):
        assert (method, model_id) == ("stop_canary", "demo")
        return known

    monkeypatch.setattr(FleetIngress, "_asked_controller", answer)
    said = asyncio.run(FleetIngress.stop_canary(FleetIngress.__new__(FleetIngress), "demo"))
    assert said == {"model": "demo", "canary": None}
    return served.deleted


def test_replicas_that_the_controller_forgot_go_when_it_is_stopped(monkeypatch):
    assert stop(monkeypatch, False, **APPS) == ["app-canary-demo"]


def test_one_is_stopped_before_its_replicas_are_there(monkeypatch):
    assert stop(monkeypatch, True) == []


def test_without_either_there_is_none_to_stop(monkeypatch):
    with pytest.raises(HTTPException) as raised:
        stop(monkeypatch, False)
    assert raised.value.status_code == 404


def test_the_keeper_of_the_controller_removes_them(monkeypatch):
    served = serve_of(monkeypatch, **APPS)

    class Actor:
        def options(self, **_):
            return self

        def remote(self, _):
            return SimpleNamespace(kept_canaries=SimpleNamespace(remote=self.kept))

        async def kept(self):
            return {"demo"}

    monkeypatch.setattr(controller.ray, "remote", lambda _: Actor())

    async def keep():
        keeper = ControllerKeeper(controller.ControllerSettings())
        while not served.deleted:
            await asyncio.sleep(0)
        return keeper

    asyncio.run(asyncio.wait_for(keep(), 30))
    assert served.deleted == ["app-canary-big"]
