"""A run directory: written as the run goes, whole at every instant, and resumed to the identical result.

    runs/market-2026-11-23-001/
      config.toml              the effective options, seed, versions, input's checksum; at the end, the result
      history.jsonl            one record per recorded round; every complete line survives kill -9
      checkpoint.safetensors   the last state, replaced only by a complete new one
      answer/*.csv             the result's tables (Parquet too when pyarrow is there)
      certificates.json        name, value, tolerance, holds
      figures/*.svg
      report.html              self-contained

Nothing is created before the first thing is written, so that input that is refused leaves nothing behind.
"""

import contextlib
import datetime
import errno
import importlib.util
import itertools
import json
import os
import signal
import threading
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..certificate import to_json
from ..errors import InputError
from ..study import Outcome, Settings, read_toml
from . import config
from .files import name_file, remove_parts, sync_folder, whole_file, write_whole
from .history import History
from .progress import Progress
from .tables import as_lists, file_name, svg_of, write_csv, write_parquet

HISTORY = "history.jsonl"
CHECKPOINT = "checkpoint.safetensors"
CERTIFICATES = "certificates.json"
REPORT = "report.html"
RESULT = "\n[result]\n"


class RunContext:
    """What a study writes through, and what it may ask, while it runs.

    Use it as a context: inside, the first Ctrl-C sets `stopped`, the second interrupts at once.

    Args:
        directory: Where to write; None for the next free `runs/STUDY-DATE-NNN` in the current folder.
        study: The study's name.
        settings: Options, seed and devices; recorded in config.toml.
        quiet: Show no progress.
        resuming: Continue the run in `directory`, with the settings read back from its config.toml
            (`catallax.study.settings(study, config=...)`).

    Raises:
        InputError: if the directory holds something already, or, resuming, is no run; if an input file is
            missing, or has changed.
        PermissionError: if the directory could not be created.
    """

    def __init__(
        self,
        directory: str | Path | None = None,
        *,
        study: str = "run",
        settings: Settings | None = None,
        quiet: bool = True,
        resuming: bool = False,
    ):
        self.study = study
        self.settings = Settings(None) if settings is None else settings
        self.resuming = resuming
        self.progress = Progress(study, quiet=quiet)
        self._directory = None if directory is None else Path(directory)
        self._history: History | None = None
        self._stop = threading.Event()
        self._previous: Any = None
        self._began = time.monotonic()
        if resuming:
            self._config = self._recorded_config()
        else:
            check_free(self._directory)
            self._config = config.write_config(study, self.settings)

    def _recorded_config(self) -> str:
        if self._directory is None:
            raise InputError("a run to resume needs a directory")
        recorded, text = read_config(self._directory)
        if self.settings.options is not None:
            config.check_input(recorded.get("input", {}), self.settings.options, self._directory)
        return text.split(RESULT)[0]

    @property
    def seed(self) -> int:
        """The seed of all randomness."""
        return self.settings.seed

    @property
    def devices(self) -> int:
        """Over how many devices to spread the agents."""
        return self.settings.devices

    @property
    def started(self) -> bool:
        """Whether anything has been written."""
        return self._history is not None

    @property
    def stopped(self) -> bool:
        """Whether the user asked to stop. A loop that sees it ends; whatever is then written is kept."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Ask the run to stop, as Ctrl-C does."""
        self._stop.set()

    @property
    def directory(self) -> Path:
        """The run directory. It is created by the first write, or when it is first asked for."""
        self._open()
        assert self._directory is not None
        return self._directory

    def _open(self) -> History:
        """Create the directory and open the history; resuming, cut the history back to the checkpoint."""
        if self._history is not None:
            return self._history
        if self._directory is None:
            self._directory = next_free(Path("runs"), self.study)
        keep = 0
        if self.resuming:
            keep = records_at_checkpoint(self._directory / CHECKPOINT)
        else:
            write_whole(self._directory / config.NAME, self._config)
        self._history = History(self._directory / HISTORY, keep)
        if self.resuming:
            remove_parts(self._directory)
        sync_folder(self._directory)
        return self._history

    def record(self, *records: Mapping[str, Any]) -> None:
        """Append records to the history, one line each; once this returns they survive kill -9.

        Record a round before checkpointing it: a resumed run forgets what was recorded after the checkpoint.
        Numbers that are not finite are written as null.

        Raises:
            OSError: if the disk is full; the history then ends where it ended before.
        """
        self._open().append(*records)

    def checkpoint(self, state: Any) -> None:
        """Store a pytree of arrays and numbers to resume from, in place of the checkpoint before.

        Raises:
            OSError: if the disk is full; the old checkpoint stays.
            TypeError: if a leaf is no array.
        """
        from .checkpoint import pack

        history = self._open()
        content = pack(state, {"records": str(history.records)})
        history.sync()
        write_whole(self.directory / CHECKPOINT, content)

    def restore(self, like: Any) -> Any:
        """Return the state to start from: the checkpoint's when resuming, else `like` itself.

        Args:
            like: The state of a fresh start. Structure, shapes and dtypes must be those of the checkpoint.

        Raises:
            InputError: if the checkpoint does not fit, or is not readable.
        """
        if not self.resuming or not (self.directory / CHECKPOINT).exists():
            return like
        from .checkpoint import unpack

        return unpack(self.directory / CHECKPOINT, like)

    def write_table(self, name: str, columns: Mapping[str, Any]) -> Path:
        """Write a table to answer/NAME.csv, and NAME.parquet if pyarrow is there; return the CSV's path.

        Floats are written in full precision. Columns are sequences or arrays of equal length.

        Raises:
            ValueError: if the columns are not equally long, or the name does not suit a file.
            OSError: if the disk is full; an older table stays.
        """
        lists = as_lists(name, columns)
        path = self.directory / "answer" / f"{file_name(name)}.csv"
        with whole_file(path) as stream:
            write_csv(stream, lists)
        if importlib.util.find_spec("pyarrow"):
            with whole_file(path.with_suffix(".parquet")) as stream:
                write_parquet(stream, lists)
        return path

    def write_figure(self, name: str, figure: Any) -> str:
        """Write a picture to figures/NAME.svg.

        Args:
            name: The file's name, without the ending.
            figure: The text of an SVG image, or a Matplotlib figure.

        Returns:
            The text of the SVG image, for a report's section.
        """
        text = svg_of(figure)
        write_whole(self.directory / "figures" / f"{file_name(name)}.svg", text)
        return text

    def finish(self, outcome: Outcome) -> Path:
        """Write certificates, report and the result's lines in config.toml; return the report's path."""
        from .report import render

        self._open().sync()
        result = {
            "title": outcome.title,
            "status": outcome.status,
            "complete": not self.stopped and outcome.status != "stopped",
            "seconds": round(time.monotonic() - self._began, 3),
            "finished": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "summary": outcome.summary,
        }
        write_whole(self.directory / CERTIFICATES, to_json(outcome.certificates))
        page = render(outcome, config=tomllib.loads(self._config), result=result, directory=self.directory.name)
        write_whole(self.directory / REPORT, page)
        write_whole(self.directory / config.NAME, f"{self._config}\n{config.toml_table('result', result)}")
        return self.directory / REPORT

    def close(self) -> None:
        """Take the progress bar down and close the history."""
        self.progress.close()
        if self._history is not None:
            self._history.close()

    def __enter__(self) -> "RunContext":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupted)
        return self

    def __exit__(self, *error: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
        self.close()

    def _interrupted(self, number: int, frame: Any) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
        self._stop.set()


def check_free(directory: Path | None) -> None:
    """Check that a new run can be written there, before any work is done.

    Raises:
        InputError: if something is there already.
        PermissionError: if it could not be created.
    """
    if directory is not None and directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError("is there already; give another --out, or continue it with --resume", file=directory)
    nearest = (directory or Path("runs")).absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(nearest))
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(nearest))


def next_free(folder: Path, study: str) -> Path:
    """Create and return the next free `STUDY-DATE-NNN` in a folder; two runs at once get two."""
    day = datetime.date.today().isoformat()
    for number in itertools.count(1):
        directory = folder / f"{study}-{day}-{number:03}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
                return directory
        except OSError as error:
            raise name_file(error, directory) from error
    raise AssertionError("unreachable")


def read_config(directory: Path) -> tuple[dict[str, Any], str]:
    """Read a run's config.toml: the document and its text.

    Raises:
        InputError: if the directory is not a run's.
    """
    path = directory / config.NAME
    if not path.is_file():
        raise InputError(f"is not a run directory: it has no {config.NAME}", file=directory)
    document, text = read_toml(path)
    if not isinstance(document.get("study"), str):
        raise InputError("does not say which study was run", file=path)
    return document, text


def records_at_checkpoint(path: Path) -> int:
    """Return how many records the history held when the checkpoint was written; 0 without a checkpoint.

    Raises:
        InputError: if the file is not a checkpoint.
    """
    try:
        with path.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(size, 2**26)))
        return int(header["__metadata__"]["records"])
    except FileNotFoundError:
        return 0
    except (ValueError, KeyError, TypeError):
        raise InputError("is not a checkpoint that this program wrote", file=path) from None
