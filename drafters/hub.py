"""Checkpoints by their directory, or by their id on the hub: `owner/name` or
`owner/name@revision`."""

from __future__ import annotations

import logging
from pathlib import Path

from drafters.errors import CheckpointError
from profiles.fingerprint import hub_commit

log = logging.getLogger(__name__)

NEVER_FETCHED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf")  # only safetensors are loaded


def checkpoint_directory(
    source: str | Path, revision: str | None = None, *, weights: bool = True
) -> Path:
    """A directory with the checkpoint, fetched where `source` is an id; without `weights` its
    config and tokenizer will do.

    A revision in the id goes before `revision`. Without either the newest is taken, and its
    commit is said in a warning; the directory is named by it, which `checkpoint_fingerprint`
    passes on to what is written of this checkpoint. Raises CheckpointError when there is no such
    checkpoint.
    """
    directory = Path(source)
    if directory.is_dir():
        return directory
    name, _, own_revision = str(source).partition("@")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    asked = own_revision or revision
    try:
        directory = Path(
            snapshot_download(
                name,
                revision=asked,
                ignore_patterns=[*NEVER_FETCHED, *([] if weights else ["*.safetensors"])],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{source}: no such directory, and the hub does not give it: {reason}"
        ) from None
    commit = hub_commit(directory)
    if commit is not None and asked != commit:
        log.warning(
            "%s: taken is what %s is now; to start with the same again: %s@%s",
            source,
            asked or "newest",
            name,
            commit,
        )
    return directory
