"""The command line: `catallax run`, `catallax list`, `catallax show`, `catallax generate`.

Whatever a user got wrong ends in one line on the error stream and exit code 2. A run whose certificates
do not all hold ends with 1, a stopped one with 130.
"""

import contextlib
import dataclasses
import inspect
import os
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Group, Parameter

from . import __version__
from .errors import InputError, MissingExtra, did_you_mean
from .study import COMMON, Settings, Study, Writer, load_study, option_types, settings, study_names

USER_ERRORS = (InputError, MissingExtra, OSError, MemoryError)
"""What is the user's or the machine's doing, and so is said in one line without a traceback."""


def main(tokens: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Args:
        tokens: The arguments; those of the process by default.
    """
    tokens = list(sys.argv[1:] if tokens is None else tokens)
    try:
        app = build(tokens)
        code = app(tokens, exit_on_error=False, print_error=False, verbose=False, result_action="return_value")
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # The reader of our output has left; Python would complain once more when it closes the stream.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CycloptsError as error:
        return fail(_sentence(error, tokens))
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except USER_ERRORS as error:
        return fail(describe(error))


def fail(message: str, code: int = 2) -> int:
    """Print one line on the error stream and return the exit code."""
    print("error:", " ".join(message.split()), file=sys.stderr)
    return code


def describe(error: BaseException) -> str:
    """Say in one line what went wrong."""
    if isinstance(error, OSError) and error.strerror:
        what = error.strerror[:1].lower() + error.strerror[1:]
        return f"{error.filename}: {what}" if error.filename is not None else what
    if isinstance(error, MemoryError):
        return str(error) or "out of memory"
    return str(error) or type(error).__name__


def _sentence(error: CycloptsError, tokens: Sequence[str]) -> str:
    text = str(error)
    if unused := re.fullmatch(r"Unused Tokens: \[(.*)\]\.", text):
        return f"one argument too many: {unused[1]}"
    if tokens and tokens[0].startswith("-") and text.startswith("Unknown command"):
        return f"unknown option {tokens[0]}" + did_you_mean(tokens[0], ["--help", "--version", "--install-completion"])
    return text[:1].lower() + text[1:].rstrip(".")


def build(tokens: Sequence[str]) -> App:
    """Return the commands; a study is loaded only if the arguments ask for it."""
    app = App(name="catallax", help="Many agents, one signal.", version=f"catallax {__version__}")
    app.register_install_completion_command(name="--install-completion")
    app.command(list_studies, name="list")
    app.command(show)
    app.command(generate)
    run = App(name="run", help="Run a study: catallax run NAME --help shows its options.")
    app.command(run)
    if tokens[:1] in (["run"], ["--install-completion"]):
        names = study_names()
        asked = [name for name in tokens[1:2] if not name.startswith("-")] if tokens[0] == "run" else []
        for name in asked or names:
            # Of a study that is asked for, the user is told why it cannot be loaded; any other is left out.
            with contextlib.suppress(*([] if asked else [InputError])):
                run.command(_command(load_study(name)), name=name)
    return app


def _words(kind: Any, tokens: Sequence[Any]) -> Any:
    """Hand a flag's words on as they stand: `study.settings` reads them, as it reads --set."""
    words = [token.value for token in tokens]
    return words if len(words) > 1 else words[0]


def _parameter(
    name: str, kind: Any, default: Any, help: str, group: Group | None, positional: bool = False
) -> inspect.Parameter:
    shown = False if default is None or default is False else _shown
    facts: dict[str, Any] = {"help": help, "show_default": shown, **({"group": group} if group else {})}
    if kind is not bool:
        facts.update(converter=_words, n_tokens=1, negative=())
    elif name in RUN_OPTIONS:
        facts.update(negative=())
    annotation = Annotated[kind, Parameter(**facts)]
    where = inspect.Parameter.POSITIONAL_ONLY if positional else inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, where, default=default, annotation=annotation)


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _command(study: Study) -> Any:
    """Make the command of a study: its options, and those of every run, as parameters."""

    def command(*data: Any, **given: Any) -> int:
        if data and study.positional:
            given[study.positional] = list(data) if many else data[0]
        return _run(study, **{"quiet": False, **given})

    many = typing.get_origin(option_types(study).get(study.positional or "")) is tuple
    own, common = Group(f"Options of {study.name}", sort_key=1), Group("Options of every run", sort_key=2)
    parameters, kinds = [], option_types(study)
    for field in dataclasses.fields(study.Options):
        positional = field.name == study.positional
        default = None if field.default is dataclasses.MISSING else field.default
        group, help = None if positional else own, field.metadata.get("help", "")
        parameter = _parameter(field.name, kinds[field.name], default, help, group, positional)
        if positional and many:
            one = _parameter(field.name, typing.get_args(kinds[field.name])[0], None, help, group).annotation
            parameter = parameter.replace(kind=inspect.Parameter.VAR_POSITIONAL, default=inspect.Parameter.empty)
            parameter = parameter.replace(annotation=one)
        parameters.insert(0 if positional else len(parameters), parameter)
    for name, (kind, default, help) in RUN_OPTIONS.items():
        parameters.append(_parameter(name, kind, default, help, common))
    signature = inspect.Signature(parameters)
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    command.__name__, command.__doc__ = study.name, study.summary
    return command


RUN_OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "set": (list[str] | None, None, "Set an option by its name, key=value; may be repeated."),
    "config": (Path | None, None, "Read options from a TOML file. Flags and --set count for more."),
    "seed": (COMMON["seed"], 0, "Seed of all randomness."),
    "devices": (COMMON["devices"], 1, "Spread the agents over so many devices."),
    "out": (Path | None, None, "Write here, not to the next free runs/NAME-DATE-NNN."),
    "resume": (Path | None, None, "Continue the interrupted run in this directory."),
    "quiet": (bool, False, "Print errors only."),
}


def _run(study: Study, *, quiet: bool, out: str = "", resume: str = "", **given: Any) -> int:
    """Set a run up, or an interrupted one up again, and do it."""
    sets, file = given.pop("set", []), given.pop("config", "")
    sets = [sets] if isinstance(sets, str) else sets
    if not resume:
        chosen = settings(study, given, sets, Path(file) if file else None)
        return _execute(study, chosen, out, quiet, resuming=False)
    extra = {
        **given,
        **{name: value for name, value in (("set", sets), ("config", file), ("out", out)) if value},
    }
    if extra:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in extra)
        raise InputError(f"--resume continues a run as it was set up; leave out {flags}")
    from .runs.store import read_config

    recorded, _ = read_config(Path(resume))
    chosen = settings(study, config=Path(resume) / "config.toml")
    if recorded.get("result", {}).get("complete"):
        print(f"note: {resume} is complete; nothing to resume", file=sys.stderr)
        return 0 if quiet else show(Path(resume))
    return _execute(study, chosen, resume, quiet, resuming=True)


def _execute(study: Study, chosen: Settings, directory: str, quiet: bool, *, resuming: bool) -> int:
    """Do a run; if it fails before it begins nothing is left behind, if later whatever was complete."""
    from .runs.store import RunContext

    prepare_jax(chosen.devices)
    run = RunContext(directory or None, study=study.name, settings=chosen, quiet=quiet, resuming=resuming)
    try:
        with run:
            outcome = study.execute(chosen.options, run)
            report = run.finish(outcome)
    except KeyboardInterrupt:
        kept = f"; continue with: catallax run {study.name} --resume {run.directory}" if run.started else ""
        return fail(f"interrupted{kept}", 130)
    except USER_ERRORS as error:
        kept = f"; what was complete is kept in {run.directory}" if run.started else ""
        return fail(describe(error) + kept)
    if not quiet:
        from .runs.show import print_result

        print_result(outcome.title, outcome.status, outcome.certificates, outcome.summary)
        print(f"report: {report}")
    if run.stopped or outcome.status == "stopped":
        print(f"stopped; continue with: catallax run {study.name} --resume {run.directory}", file=sys.stderr)
        return 130
    return 0 if all(one.holds for one in outcome.certificates) else 1


def prepare_jax(devices: int) -> None:
    """Set what JAX reads when it is imported: the number of devices on a CPU, and the compilation cache.

    The cache lives in the user's cache folder; where that cannot be written there is none, and no complaint.
    """
    if devices > 1:
        option = "--xla_force_host_platform_device_count"
        others = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(option)]
        os.environ["XLA_FLAGS"] = " ".join([*others, f"{option}={devices}"])
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    with contextlib.suppress(OSError, RuntimeError):
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "catallax" / "jax"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK | os.X_OK):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
            os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def list_studies() -> int:
    """List the installed studies."""
    from .runs.show import print_table

    rows = []
    for name in study_names():
        try:
            rows.append((name, load_study(name).summary))
        except InputError as error:
            rows.append((name, str(error)))
    print_table(("Study", "What it does"), rows)
    return 0


def show(directory: Annotated[Path, Parameter(help="A run directory, such as runs/market-2026-11-23-001.")], /) -> int:
    """Show what a run came to: status, certificates, the top of its tables."""
    from .runs.show import show_run

    show_run(directory)
    return 0


def generate(
    directory: Annotated[Path, Parameter(help="A run directory, such as runs/experts-2026-11-23-001.")],
    /,
    *,
    prompt: Annotated[str, Parameter(help="What the text begins with.")] = "",
    model: Annotated[str, Parameter(help="Which of the run's models writes; the first if left out.")] = "",
    count: Annotated[int, Parameter(help="How many bytes to write.")] = 400,
    temperature: Annotated[float, Parameter(help="How freely; 0 takes the likeliest byte each time.")] = 0.8,
    seed: Annotated[int, Parameter(help="Seed of the draws.")] = 0,
) -> int:
    """Let a trained model go on with a text."""
    from .runs.store import read_config

    study = load_study(read_config(directory)[0]["study"])
    if not isinstance(study, Writer):
        raise InputError(f"is a run of the study {study.name!r}, which writes no text", file=directory)
    prepare_jax(1)
    print(study.generate(directory, prompt, model=model, count=count, temperature=temperature, seed=seed))
    return 0
