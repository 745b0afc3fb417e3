"""Files that are whole or absent, whatever happens while they are written."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

SUFFIX = ".part"
"""How the name of an unfinished file ends."""


def name_file(error: OSError, path: Path) -> OSError:
    """Return the same error with the file's name in it: a failed write does not know what it wrote to."""
    return OSError(error.errno, error.strerror or str(error), str(path))


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file that appears under its name only once it is complete and on the disk.

    The bytes go to a temporary file in the same folder, which then takes the name; a file that was there
    before stays until that moment. On any failure the temporary file is removed.

    Raises:
        OSError: with the file's name, for instance when the disk is full.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}{SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, path)
        sync_folder(path.parent)
    except OSError as error:
        _discard(part)
        raise name_file(error, path) from error
    except BaseException:
        _discard(part)
        raise


def write_whole(path: Path, text: str | bytes) -> None:
    """Write a whole text (as UTF-8) or bytes to a file, or nothing."""
    with whole_file(path) as stream:
        stream.write(text.encode() if isinstance(text, str) else text)


def _discard(part: Path) -> None:
    with contextlib.suppress(OSError):
        part.unlink()


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the system can."""
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_parts(folder: Path) -> None:
    """Remove what a killed process left unfinished."""
    for part in folder.rglob(f".*{SUFFIX}"):
        _discard(part)
