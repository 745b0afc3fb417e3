"""A run's config.toml: what was asked, with which versions, of which input."""

import dataclasses
import hashlib
import json
import math
import platform
import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..study import Settings

NAME = "config.toml"

PACKAGES = ("catallax", "jax", "jaxlib", "equinox", "numpy", "scipy")
"""Packages on which the numbers of an answer may depend."""


def toml_value(value: Any) -> str:
    """Write a value as TOML.

    Raises:
        TypeError: if TOML has no such value.
        InputError: if a text is not valid Unicode, as a file's name may be.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return '"none"'
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Path):
        return toml_value(str(value))
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise InputError(f"{value!r} is not valid Unicode and cannot be written down") from None
        # JSON's escapes are TOML's, but for the one control character that JSON leaves alone.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    raise TypeError(f"a run's settings cannot hold {value!r}")


def toml_table(name: str, entries: Mapping[str, Any]) -> str:
    """Write a table of plain values as TOML."""
    lines = [f"[{name}]"]
    for key, value in entries.items():
        key = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else toml_value(key)
        lines.append(f"{key} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def checksum(path: Path) -> str:
    """Return "sha256:..." of a file's bytes."""
    with path.open("rb") as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def input_files(options: Any) -> Iterator[tuple[str, Path]]:
    """Walk the files that a study's options name: (option, path)."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        paths = [entry for entry in (value if isinstance(value, tuple) else (value,)) if isinstance(entry, Path)]
        for number, path in enumerate(paths, 1):
            yield (f"{field.name} {number}" if isinstance(value, tuple) else field.name), path


def checksums(options: Any) -> dict[str, str]:
    """Map each option that names a file to the file's checksum; folders are left out.

    Raises:
        InputError: if a file is missing.
    """
    found = {}
    for name, path in input_files(options):
        if not path.exists():
            raise InputError("there is no such file", file=path)
        if not path.is_dir():
            found[name] = checksum(path)
    return found


def versions() -> dict[str, str]:
    """Map python and the packages that matter to their versions."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def write_config(study: str, settings: Settings) -> str:
    """Return the text of a config.toml; it can be given to `--config` to do the same again."""
    lines = [f"study = {toml_value(study)}", f"seed = {settings.seed}", f"devices = {settings.devices}", ""]
    parts = ["\n".join(lines)]
    entries, unset = {}, []
    for field in dataclasses.fields(settings.options) if settings.options is not None else ():
        value = getattr(settings.options, field.name)
        if value is None and field.default is None:
            unset.append(f"# {field.name} is not set\n")
        else:
            entries[field.name] = _absolute(value)
    parts.append(toml_table("options", entries) + "".join(unset))
    parts.append(toml_table("versions", versions()))
    parts.append(toml_table("input", checksums(settings.options) if settings.options is not None else {}))
    return "\n".join(parts)


def _absolute(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_absolute, value))
    return value.absolute() if isinstance(value, Path) else value


def check_input(recorded: Mapping[str, str], options: Any, directory: Path) -> None:
    """Compare the input files with the checksums that a run recorded.

    Raises:
        InputError: if a file is missing or has changed.
    """
    now = checksums(options)
    for name, path in input_files(options):
        if recorded.get(name) != now.get(name):
            raise InputError(
                f"has changed since {directory} was started; put the old file back, or start a new run",
                file=path,
            )
