import pytest

from cluster.commands import parse_changes


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
