"""Checkpoints by their directory, or by their id on the hub: `owner/name` or
`owner/name@revision`."""

from __future__ import annotations

from pathlib import Path

from drafters.errors import CheckpointError

NEVER_FETCHED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf")  # only safetensors are loaded


def checkpoint_directory(
    source: str | Path, revision: str | None = None, *, weights: bool = True
) -> Path:
    """A directory with the checkpoint, fetched where `source` is an id; without `weights` its
    config and tokenizer will do.

    A revision in the id goes before `revision`. Raises CheckpointError when there is no such
    checkpoint.
    """
    directory = Path(source)
    if directory.is_dir():
        return directory
    name, _, own_revision = str(source).partition("@")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                revision=own_revision or revision,
                ignore_patterns=[*NEVER_FETCHED, *([] if weights else ["*.safetensors"])],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{source}: no such directory, and the hub does not give it: {reason}"
        ) from None
