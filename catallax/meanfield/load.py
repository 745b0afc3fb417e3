"""From what a user names to a game: one of ours by its name, a map, or a Python file with a game of their own.

A Python file is run, as it would be by `python FILE`: it is the user's own program, named on purpose.
"""

import functools
import importlib.util
import inspect
import sys
import traceback
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ..errors import InputError, did_you_mean
from .games import maker_named
from .games.grid import Evacuation
from .maps import read_map
from .problem import AbstractGame, validate
from .stationary import AbstractStationaryGame, validate_stationary

Game = AbstractGame | AbstractStationaryGame
"""What can be played: a game that ends, or one that does not."""

MODULE = "catallax_game_of_the_user"
"""The name under which a user's file is imported."""


def load_game(name: str, file: Path | None, parameters: Sequence[str] = (), horizon: int | None = None) -> Game:
    """Return the game that is asked for, checked.

    Args:
        name: One of our games, if there is no file.
        file: A map (.txt, .map, .png) or a Python file (.py).
        parameters: The game's own parameters, each "name=value".
        horizon: How many decisions; the game's own number if None.

    Raises:
        InputError: if there is no such game or parameter, or the game is none; with file and line if it has one.
    """
    given = dict(text.split("=", 1) for text in parameters)
    if horizon is not None:
        given["horizon"] = str(horizon)
    # Probabilities that are written down in single precision sum to one only to 1e-7.
    with jax.enable_x64(True):
        if file is None:
            return _checked(made(maker_named(name), given, name), None)
        if file.suffix.lower() == ".py":
            return _checked(users_game(file, given), file)
        return _checked(map_game(file, given), file)


def made(factory: Callable[..., Game], given: Mapping[str, str], name: str) -> Game:
    """Make a game from its factory (a function or a class) and parameters given as text.

    Raises:
        InputError: if a parameter is unknown, lacking, or refused.
    """
    all_ = inspect.signature(factory).parameters
    known = {key: one for key, one in all_.items() if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)}
    # A factory that hands further parameters on will itself refuse those that are unknown.
    further = any(one.kind is one.VAR_KEYWORD for one in all_.values())
    chosen = {}
    for key, text in given.items():
        key = key.strip().replace("-", "_")
        if key not in known and not further:
            offer = did_you_mean(key, known) or f"; it has {', '.join(known) or 'none'}"
            raise InputError(f"{name} has no parameter {key!r}{offer}")
        unknown = inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY)
        chosen[key] = _value(text.strip(), known.get(key, unknown), name)
    lacking = [key for key, one in known.items() if one.default is one.empty and key not in chosen]
    if lacking:
        raise InputError(f"{name} needs its parameters {', '.join(lacking)}: add --parameters {lacking[0]}=...")
    try:
        return factory(**chosen)
    except InputError:
        raise
    except (ValueError, TypeError) as error:
        raise InputError(f"{name}: {error}") from error


def _value(text: str, parameter: inspect.Parameter, name: str) -> Any:
    """Read a parameter's text as what its default is: a truth value, a whole number, a number or text."""
    default, annotation = parameter.default, parameter.annotation
    kind = type(default) if isinstance(default, bool | int | float | str) else annotation
    kind = next((one for one in typing.get_args(kind) if one in (bool, int, float, str)), kind)
    if kind is bool and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind is str:
        return text
    if kind is not bool:
        for read in (int,) if kind is int else (float,) if kind is float else (int, float):
            try:
                return read(text)
            except ValueError:
                continue
    wanted = {bool: "true or false", int: "a whole number"}.get(kind, "a number")
    raise InputError(f"{name}: {parameter.name} is {text!r}, but must be {wanted}")


def map_game(file: Path, given: Mapping[str, str]) -> Game:
    """Return the way out of the building that a map shows, made with the parameters.

    Raises:
        InputError: if it is no such map, with line and column; or a parameter is refused.
    """
    return made(functools.partial(Evacuation, read_map(file)), given, "the way out of a map")


def users_game(file: Path, given: Mapping[str, str]) -> Game:
    """Return the game of a Python file: its object `game`, or its one class of games, made with the parameters.

    Raises:
        InputError: if the file does not run, or has no game or several; with the line.
        OSError: if it cannot be read.
    """
    module = _imported(file)
    games = [
        thing
        for thing in vars(module).values()
        if inspect.isclass(thing)
        and issubclass(thing, Game)
        and thing.__module__ == MODULE
        and not inspect.isabstract(thing)
    ]
    found = getattr(module, "game", None)
    if found is not None:
        if not isinstance(found, Game):
            wanted = "AbstractGame or AbstractStationaryGame"
            raise InputError(f"game is {type(found).__name__}, not an object of a subclass of {wanted}", file=file)
        if not given:
            return found
        games = [type(found)]
    if not games:
        raise InputError(
            "has no game: give it a subclass of catallax.meanfield.AbstractGame, or of AbstractStationaryGame, with "
            "every method that one needs, or an object named game",
            file=file,
        )
    if len(games) > 1:
        names = ", ".join(one.__name__ for one in games)
        raise InputError(
            f"has several games ({names}); name the one to play: game = {games[0].__name__}(...)", file=file
        )
    try:
        return _blamed(file, lambda: made(games[0], given, games[0].__name__))
    except InputError as error:
        raise InputError(error.message, file=file, line=error.line) from error


def _imported(file: Path) -> Any:
    file.stat()
    spec = importlib.util.spec_from_file_location(MODULE, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Classes look their module up by its name while they are made; a file may import its neighbours.
    sys.modules[MODULE] = module
    folder = str(file.parent.absolute())
    sys.path.insert(0, folder)
    try:
        _blamed(file, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    except SyntaxError as error:
        raise InputError(f"not Python: {error.msg}", file=file, line=error.lineno, column=error.offset) from error
    finally:
        sys.path.remove(folder)
    return module


def _blamed(file: Path, work: Callable[[], Any]) -> Any:
    """Do something with a user's code; what it raises is told with the line of the user's file.

    Raises:
        InputError: in place of any exception but a syntax error.
    """
    try:
        return work()
    except (InputError, SyntaxError):
        raise
    except Exception as error:  # whatever the user's own code may raise
        whole = str(file.absolute())
        lines = [
            frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename in (whole, str(file))
        ]
        said = " ".join(str(error).split()) or "no reason given"
        said = said if len(said) < 300 else said[:299] + "…"
        raise InputError(f"{type(error).__name__}: {said}", file=file, line=lines[-1] if lines else None) from error


def _checked(game: Game, file: Path | None) -> Game:
    """Check that a game is one, and tell the file if it has one."""

    def check() -> None:
        validate_stationary(game) if isinstance(game, AbstractStationaryGame) else validate(game)

    if file is None:
        check()
        return game
    try:
        _blamed(file, check)
    except InputError as error:
        raise InputError(error.message, file=file, line=error.line) from error
    return game
