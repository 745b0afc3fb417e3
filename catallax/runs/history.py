"""The history of a run: a line of JSON per record, of which every complete one survives kill -9."""

import contextlib
import errno
import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import name_file

SECONDS_BETWEEN_SYNCS = 0.5
"""How much of the history a power cut may cost. A killed process costs nothing."""


class History:
    """An open history.jsonl, held for this process alone.

    Args:
        path: The file; created if it is not there.
        keep: How many records to keep of what is there; a torn last line goes with the rest.

    Raises:
        InputError: if another process is writing it, or it holds fewer records than are to be kept.
        OSError: if it cannot be opened.
    """

    def __init__(self, path: Path, keep: int = 0):
        self.path = path
        self.records = keep
        self._synced = 0.0
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
            self._descriptor = os.open(path, flags, 0o644)
        except OSError as error:
            raise name_file(error, path) from error
        try:
            self._hold()
            self._cut(keep)
        except BaseException:
            os.close(self._descriptor)
            raise

    def _hold(self) -> None:
        try:
            import fcntl
        except ImportError:  # Windows has no such lock
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError("another process is still writing this run", file=self.path.parent) from None

    def _cut(self, keep: int) -> None:
        kept = 0
        with open(self._descriptor, "rb", closefd=False) as stream:
            while kept < keep and stream.readline().endswith(b"\n"):
                kept += 1
            end = stream.tell()
        if kept < keep:
            message = f"holds {kept} whole records, but the checkpoint was written after {keep}"
            raise InputError(message, file=self.path)
        if os.fstat(self._descriptor).st_size > end:
            os.ftruncate(self._descriptor, end)

    def append(self, *records: Mapping[str, Any]) -> None:
        """Write records behind the last one.

        Raises:
            OSError: if the disk is full; the history then ends where it ended before.
        """
        text = "".join(json.dumps(plain(one), ensure_ascii=False, allow_nan=False) + "\n" for one in records)
        size = os.fstat(self._descriptor).st_size
        try:
            rest = text.encode()
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size)
            raise name_file(error, self.path) from error
        self.records += len(records)
        if time.monotonic() - self._synced > SECONDS_BETWEEN_SYNCS:
            self.sync()

    def sync(self) -> None:
        """Put the history on the disk."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a device or a pipe has nothing to put on a disk
                raise name_file(error, self.path) from error
        self._synced = time.monotonic()

    def close(self) -> None:
        """Close the file and let go of it; a second time does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def plain(value: Any) -> Any:
    """Turn a record into what JSON can say: arrays into lists, numbers that are not finite into null.

    Raises:
        TypeError: if something in it is neither a number, a text, a list, a mapping nor an array.
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    raise TypeError(f"a record cannot hold {value!r}")
