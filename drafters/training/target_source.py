"""Where a target to train for is: a directory, or an id on the hub."""

from __future__ import annotations

from pathlib import Path

from drafters.errors import CheckpointError


def target_directory(source: str, revision: str | None, *, weights: bool = True) -> Path:
    """A directory with the target; an id's files are fetched, without `weights` config.json alone.

    Raises CheckpointError when there is no such target.
    """
    directory = Path(source)
    if directory.is_dir():
        return directory
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        if weights:
            return Path(snapshot_download(source, revision=revision))
        # The tokenizer says which token is <|mask|>.
        for name in ("tokenizer.json", "config.json"):
            path = Path(hf_hub_download(source, name, revision=revision))
        return path.parent
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{source}: no such directory, and the hub does not give it: {reason}"
        ) from None
