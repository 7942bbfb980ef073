"""Keys of the settings and of a file: rotated without a restart, never lost to a bad file."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest
import yaml

from deployments.class_specs import KeySpec
from deployments.errors import ConfigError
from deployments.key_ring import KeyRing


def digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 2.0  # longer than the file is left alone
        return self.now_s


def write(path: Path, *secrets: str, **options: object) -> None:
    path.write_text(
        yaml.safe_dump([{"sha256": digest(s), "tenant": f"t-{s}"} | options for s in secrets])
    )


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "keys.yaml"
    write(path, "first")
    return path


@pytest.fixture
def ring(path) -> KeyRing:
    fixed = KeySpec(sha256=digest("fixed"), tenant="t-fixed")
    return KeyRing((fixed,), str(path), ("standard",), clock=Clock())


def tenants(ring: KeyRing, *secrets: str) -> list[str | None]:
    return [key.tenant if (key := ring.find(secret)) else None for secret in secrets]


def test_keys_of_both_are_known(ring):
    assert tenants(ring, "fixed", "first", "other") == ["t-fixed", "t-first", None]


@pytest.mark.parametrize("jump_s", [-3600, 3600])
def test_a_file_is_read_again_whatever_date_the_clock_gave_it(ring, path, jump_s):
    assert tenants(ring, "first") == ["t-first"]
    then_s = path.stat().st_mtime + jump_s
    write(path, "other")  # as long as before
    os.utime(path, (then_s, then_s))
    assert tenants(ring, "first", "other") == [None, "t-other"]


def test_a_new_key_is_known_and_a_revoked_one_not_any_more(ring, path):
    assert tenants(ring, "first", "second") == ["t-first", None]
    write(path, "second", "third")
    assert tenants(ring, "fixed", "first", "second") == ["t-fixed", None, "t-second"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[", "is not YAML"),
        ("- {sha256: abc, tenant: a}", "0.sha256"),
        (f"- {{sha256: {'a' * 64}, tenant: a, classes: [gold]}}", "a class 'gold'"),
        (f"- {{sha256: {digest('fixed')}, tenant: a}}", "is there twice"),
        (f"- {{sha256: {'a' * 64}, tenant: a, quota: 3}}", "0.quota"),
    ],
)
def test_a_file_that_turns_bad_leaves_the_keys_as_they_were(ring, path, text, why, caplog):
    assert tenants(ring, "first") == ["t-first"]
    path.write_text(text)
    assert tenants(ring, "fixed", "first") == ["t-fixed", "t-first"]
    assert why in caplog.text
    with pytest.raises(ConfigError, match=why):
        ring.read()


def test_a_file_that_is_gone_leaves_them_too(ring, path):
    assert tenants(ring, "first") == ["t-first"]
    path.unlink()
    assert tenants(ring, "first") == ["t-first"]


def test_a_file_that_was_never_there_lets_nobody_in(tmp_path):
    ring = KeyRing((), str(tmp_path / "none.yaml"))
    assert ring.is_needed
    assert ring.find("anything") is None
    with pytest.raises(ConfigError, match=r"keys_file: cannot read .*none.yaml: No such file"):
        ring.read()


def test_the_file_is_left_alone_for_a_second(path):
    ring = KeyRing((), str(path), clock=lambda: 100.0)
    assert tenants(ring, "first") == ["t-first"]
    write(path, "second", "third")
    assert tenants(ring, "second") == [None]


def test_every_digest_is_compared_in_constant_time(ring, monkeypatch):
    compared = []

    def compare(a: str, b: str) -> bool:
        compared.append(a)
        return a == b

    monkeypatch.setattr("deployments.key_ring.hmac.compare_digest", compare)
    assert tenants(ring, "fixed") == ["t-fixed"]
    assert compared == [digest("fixed"), digest("first")]


def test_without_keys_none_is_needed():
    assert not KeyRing().is_needed
    assert KeyRing().read() == ()


def test_it_travels_to_the_ingress(path):
    ring = pickle.loads(pickle.dumps(KeyRing((), str(path))))
    assert tenants(ring, "first") == ["t-first"]


def test_a_file_that_could_not_be_read_is_tried_again(ring, path, monkeypatch, caplog):
    assert tenants(ring, "first") == ["t-first"]
    write(path, "second")

    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as unreadable:
        unreadable.setattr(Path, "read_text", refuse)
        assert tenants(ring, "first", "second") == ["t-first", None]
        assert tenants(ring, "first") == ["t-first"]
    assert len([one for one in caplog.records if one.levelname == "ERROR"]) == 1
    assert tenants(ring, "first", "second") == [None, "t-second"]
