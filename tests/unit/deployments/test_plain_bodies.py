import pickle
from collections.abc import Iterable

import pytest
from pydantic import BaseModel
from typing_extensions import TypedDict

from deployments.plain_bodies import read_out

USER = {"role": "user"}


class Message(TypedDict, total=False):
    role: str
    content: str | Iterable[Iterable[int]]


class Body(BaseModel):
    messages: list[Message]


def test_iterators_in_messages_become_lists_that_can_be_sent():
    body = Body(messages=[USER | {"content": "x"}, USER | {"content": [[1, 2], [3]]}])
    with pytest.raises(TypeError, match="ValidatorIterator"):
        pickle.dumps(body)
    sent = pickle.loads(pickle.dumps(read_out(body)))
    assert sent.messages == [USER | {"content": "x"}, USER | {"content": [[1, 2], [3]]}]


def test_what_they_should_not_hold_is_a_value_error():
    with pytest.raises(ValueError, match="valid integer"):
        read_out(Body(messages=[USER | {"content": [["no number"]]}]))


def test_a_message_without_a_role_is_named():
    with pytest.raises(ValueError, match=r"messages\[1\] has no role"):
        read_out(Body(messages=[USER, {"content": "x"}]))


def test_embeddings_as_raw_bytes_are_refused():
    class Embedding(BaseModel):
        input: str
        encoding_format: str = "float"

    for encoding in ("bytes", "bytes_only"):
        with pytest.raises(ValueError, match=f"'{encoding}' is not served; ask for float"):
            read_out(Embedding(input="x", encoding_format=encoding))
    asked = Embedding(input="x", encoding_format="base64")
    assert read_out(asked) is asked


def test_a_body_without_messages_stays_as_it_is():
    class Completion(BaseModel):
        prompt: str

    body = Completion(prompt="x")
    assert read_out(body) is body
