import pytest

from cluster.commands import key_headers, parse_changes


def test_values_are_read_as_yaml():
    texts = ["speculation=off", "policy={kind: fixed, k: 3}", "deadline_ms=20", "policy2=null"]
    assert parse_changes(texts) == {
        "speculation": False,
        "policy": {"kind": "fixed", "k": 3},
        "deadline_ms": 20,
        "policy2": None,
    }


@pytest.mark.parametrize("text", ["speculation", "policy={kind: "])
def test_what_is_no_change_is_named(text):
    with pytest.raises(ValueError, match=r"speculation|policy"):
        parse_changes([text])


def test_the_key_of_the_environment_goes_with_the_command(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k-root")
    assert key_headers() == {"Authorization": "Bearer k-root"}
    monkeypatch.delenv("OPENAI_API_KEY")
    assert key_headers() == {}
