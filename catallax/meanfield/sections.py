"""The words and tables that the reports of all mean-field games have in common."""

import dataclasses
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..study import Film, Section
from .crowd import CrowdLaw, DeviationGain
from .figures import Plan
from .options import Options

ROUNDS = 12
"""How many rounds the table of convergence shows."""

LAWS = {
    "PacedDescent": "Mirror descent at its own pace: players lean towards the actions that pay against the crowd as "
    "it is, and by what their last step was expected to earn and did they set how far the next one goes.",
    "LeanDescent": "Mirror descent at its own pace, in little memory: players lean towards the actions that pay "
    "against the crowd as it is, and by what their last step was expected to earn and did they set how far the next "
    "one goes.",
    "LightDescent": "Mirror descent with momentum: players lean towards the actions that pay against the crowd as it "
    "is, and go on the way they went, until a step loses in the crowd that it made.",
    "MirrorDescent": "Online mirror descent: in every round each player's taste for an action grows by what the "
    "action is worth against the crowd as it is, and actions are taken in proportion to the exponential of taste.",
    "FictitiousPlay": "Fictitious play: in every round players answer the average of all crowds so far as best they "
    "can, and the answer is averaged in.",
    "DampedFixedPoint": "A damped fixed point: players answer the crowd as best they can, and the crowd moves part of "
    "the way to what they then make of it.",
    "StationaryDescent": "Mirror descent: in every round players lean towards the actions that pay in the long run "
    "against the crowd as it is, and the crowd comes to rest under what they then do.",
    "StationaryDamped": "A damped fixed point: players answer the crowd as best they can, and the crowd moves part of "
    "the way to where it would rest then.",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Played:
    """What actual crowds did.

    Args:
        players: How many the largest crowd has.
        decisions: How many decisions they made, T.
        density: What its densities were at times 0 … T, (T + 1, S).
        law: How the distance from the mean field falls with the size; None for too few sizes.
        gain: What one of its players gains by deviating.
    """

    players: int
    decisions: int
    density: np.ndarray
    law: CrowdLaw | None
    gain: DeviationGain


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """All that a report is made from.

    Args:
        options: What was asked for.
        answer: The equilibrium, of a game with an end or without.
        seconds: From reading the game to its answer, compilation included.
        plan: The grid, if the game is played on one.
        names: The actions' names.
        seen: Rounds and the exploitability per reward range after each.
        played: What actual crowds did, if one was asked for.
        figures: The pictures' texts by name.
        films: The films by name.
    """

    options: Options
    answer: Any
    seconds: float
    plan: Plan | None
    names: Sequence[str]
    seen: Sequence[tuple[int, float]]
    played: Played | None = None
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    films: Mapping[str, Film] = dataclasses.field(default_factory=dict)


def found(findings: Findings) -> list[Section]:
    """Return what is said of every game: what it is worth, how it was found, what an actual crowd does."""
    middle = [_worth(findings), _convergence(findings)]
    return middle if findings.played is None else [*middle, _crowd(findings, findings.played)]


def asked(findings: Findings, text: str, length: str) -> Section:
    """Return what was played; a sentence on equilibrium and what is said of the game's length are given."""
    options, game = findings.options, findings.answer.game
    said = " ".join((inspect.getdoc(type(game)) or "").split("\n\n")[0].split())
    kinds = len(findings.answer.policy)
    terms = {
        "Game": f"{options.named}{': ' + said if said else ''}",
        "Size": f"{game.states:,} states, {game.actions} actions{length}"
        + (f", {kinds} kinds of players" if kinds > 1 else ""),
        "Discount": f"{float(game.discount):g} per step",
        "Tolerance": signed(f"exploitability of {options.tol:g} of the reward range"),
    }
    if options.parameters:
        terms["Parameters"] = ", ".join(options.parameters)
    return Section("What was played", text, terms=terms)


def _worth(findings: Findings) -> Section:
    answer = findings.answer
    shares = np.asarray(answer.game.shares, np.float64)
    text = (
        f"A player's policy is worth {float(shares @ answer.value):.6g} to it on average. By answering this crowd as "
        f"best it could, it would gain {answer.exploitability:.3g}; the reward range is {answer.reach:.4g}."
    )
    table = {"kind": list(range(shares.size)), "share of the crowd": shares, "value of its policy": answer.value}
    return Section("What it is worth", signed(text), table if shares.size > 1 else None, file="answer/kinds.csv")


def _convergence(findings: Findings) -> Section:
    answer, seen = findings.answer, findings.seen
    text = f"{LAWS.get(answer.law, answer.law)}\n\n{answer.rounds:,} rounds; the run ended as “{answer.status}”."
    if not seen:
        return Section("How it was found", text)
    chosen = sorted({int(k) for k in np.rint(np.geomspace(1, len(seen), ROUNDS))})
    rows = [seen[k - 1] for k in chosen]
    table = {
        "round": [row[0] for row in rows],
        "exploitability / reward range": [signed(f"{row[1]:.2e}") for row in rows],
    }
    note = "As the law itself measures it on the way; the certificate above is computed from the policy alone."
    return Section("How it was found", text, table, findings.figures.get("convergence"), note, file="history.jsonl")


def _crowd(findings: Findings, played: Played) -> Section:
    gain, law = played.gain, played.law
    figure, film = findings.figures.get("crowd"), findings.films.get("crowd")
    text = (
        f"The answer is exact for infinitely many players. Here {played.players:,} actual players play it for "
        f"{played.decisions:,} decisions, each by its own chance{'; the film shows what they did' if film else ''}."
        "\n\nIf one of them alone turns to the best response to the mean field, "
        f"it gains {gain.gain:.3g} (± {2 * gain.error:.1g}), {_part(gain.gain, findings.answer.reach)} of the reward "
        f"range. In the mean field it would gain {gain.limit:.3g}."
    )
    table, note = None, ""
    if law is not None:
        low, high = law.interval
        text += (
            "\n\nThe distance of actual crowds from the mean field falls as the number of players to the power "
            f"{law.slope:.3f} (95% confidence: {low:.3f} to {high:.3f}); by the law of large numbers it is -0.5."
        )
        table = {"players": law.players, "distance": law.distance, "± 2 errors": 2 * law.error}
        note = "Distance: the root mean square over crowds and times of √(Σ over states of squared differences). "
    note += (
        "The gain is that of the player's expected reward, measured among actual players with common random numbers, "
        "its own influence on the crowd included."
    )
    return Section(
        "What an actual crowd does", signed(text), table, figure, note, file="answer/distance.csv", film=film
    )


def _part(gain: float, reach: float) -> str:
    return f"{gain / reach:.2g}" if reach > 0 else "no part"


def signed(text: str) -> str:
    """Write the minus of a negative number, or of an exponent, as one."""
    return re.sub(r"(?<![\w.)])-(?=\d)|(?<=\de)-0?|(?<=\^)-", "−", text)
