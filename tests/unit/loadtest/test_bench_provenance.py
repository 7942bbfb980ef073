from loadtest.provenance import served_digest


def document(source: str, k: int = 7) -> dict:
    model = {"target": {"source": source}, "policy": {"kind": "fixed", "k": k}}
    return {"applications": [{"args": {"models": [model]}}]}


def test_settings_and_weights_make_it_another_one(tmp_path):
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    before = served_digest(document(str(tmp_path)))
    assert served_digest(document(str(tmp_path))) == before
    assert served_digest(document(str(tmp_path), k=3)) != before
    weights.write_bytes(b"two")
    changed = served_digest(document(str(tmp_path)))
    assert changed != before
    (tmp_path / "confidence.json").write_text("[]")
    assert served_digest(document(str(tmp_path))) != changed


def test_a_checkpoint_of_the_hub_is_known_by_its_settings():
    assert len(served_digest(document("Qwen/Qwen3-4B"))) == 8
