"""Profiles in Parquet: one Arrow schema, provenance in its metadata, clear refusals."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from profiles.provenance import ProfileError


class ProfileFile(NamedTuple):
    """What a profile's file holds."""

    table: pa.Table
    metadata: dict[str, str]


def write_profile(
    path: Path, table: pa.Table, *, kind: str, format_version: int, metadata: Mapping[str, str]
) -> None:
    """Write `table` with its provenance; a reader sees the old file or the new one."""
    own = {"kind": kind, "format_version": str(format_version)}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.unfinished")
    described = table.replace_schema_metadata({**metadata, **own})
    pq.write_table(described, unfinished, write_page_checksum=True)
    unfinished.replace(path)


def read_profile(
    path: Path,
    *,
    kind: str,
    format_version: int,
    schema: Callable[[Mapping[str, str]], pa.Schema],
    required: Collection[str] = (),
) -> ProfileFile:
    """A profile of `kind` with the columns of `schema` (of the metadata), without nulls.

    `required` are keys that the metadata must have. Raises ProfileError naming file, field
    and mend for anything else.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise ProfileError(f"{path}: there is no such file") from None
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise ProfileError(
            f"{path} cannot be read as Parquet ({reason}); it is damaged or unfinished: "
            "write it again"
        ) from None
    metadata = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    _check_kind(path, metadata, kind, format_version)
    for key in required:
        if key not in metadata:
            raise ProfileError(f"{path}: {key} is missing from its metadata; write it again")
    try:
        wanted = schema(metadata)
    except (KeyError, ValueError) as error:
        raise ProfileError(f"{path}: its metadata is unusable ({error}); write it again") from None
    _check_columns(path, table, wanted)
    return ProfileFile(table.select(wanted.names), metadata)


def _check_kind(path: Path, metadata: Mapping[str, str], kind: str, format_version: int) -> None:
    found_kind = metadata.get("kind")
    if found_kind != kind:
        raise ProfileError(f"{path}: kind is {found_kind!r}, needed is {kind!r}: another file")
    found_version = metadata.get("format_version")
    if found_version != str(format_version):
        raise ProfileError(
            f"{path}: format_version is {found_version!r}, this program reads "
            f"{format_version}: write it again with this program"
        )


def _check_columns(path: Path, table: pa.Table, schema: pa.Schema) -> None:
    for field in schema:
        if field.name not in table.column_names:
            raise ProfileError(f"{path}: column {field.name} is missing; write it again")
        column = table.column(field.name)
        if column.type != field.type:
            raise ProfileError(
                f"{path}: column {field.name} is {column.type}, needed is {field.type}; "
                "write it again"
            )
        if column.null_count:
            raise ProfileError(
                f"{path}: column {field.name} has {column.null_count} empty values; write it again"
            )
