"""The checks, one law each."""

import copy
from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_leaves_with_path
from jaxtyping import Array, Key, PyTree

from ..core.mesh import mesh
from ..core.run import Progress, canonical, run
from ..core.system import AbstractSystem, Sequence, State, population_size, populations, stages
from .crowd import (
    ConformanceError,
    Counted,
    Tally,
    apart,
    bits,
    choose_kept,
    difference,
    differing,
    disturbed,
    draw_keys,
    finished,
    first_change,
    hold_no_population,
    largest,
    mix,
    name_answers,
    poisoned,
    program_text,
    reordered,
    resized,
    round_by_hand,
    round_shapes,
    rows_of,
    slope_fits,
    step_length,
    tolerance_for,
    walk,
)

Redraw = Callable[[Key[Array, ""], PyTree], PyTree]
Law = Callable[[State], PyTree]


def check_system(
    system: AbstractSystem,
    state: State,
    *,
    key: Key[Array, ""],
    conserves: Mapping[str, Law] | None = None,
    redraw: Redraw | None = None,
    build: Callable[[int], tuple[AbstractSystem, State]] | None = None,
    differentiable: bool = True,
    vmappable: bool = True,
    poison: bool = True,
    rounds: int = 4,
    tolerance: float | None = None,
) -> None:
    """Check every law of the contract.

    Args:
        system: The rules; a `Sequence` is checked stage by stage.
        state: A state in which the agents differ from one another.
        key: Randomness of the checks and of the runs.
        conserves: Quantities that no round changes: name to a function of the state.
        redraw: Draws other private states, (key, agents) to agents; by default rows are shuffled and
            disturbed.
        build: The system and a state for a given number of agents, so that their size can be compared; by
            default the agents at hand are repeated.
        differentiable: Whether the signal depends smoothly on parameters, private states and signal.
        vmappable: Whether the system is meant to run under `jax.vmap`.
        poison: Whether other agents may be set to NaN; switch off if `respond` would loop for ever on them.
        rounds: Length of the runs.
        tolerance: What counts as rounding, relative to an array's largest entry; by default 1e-4 for single
            and about 1e-10 for double precision.

    Raises:
        ConformanceError: if a law is broken.
    """
    check_locality(system, state, key=key, redraw=redraw, poison=poison)
    check_permutation(system, state, key=key, tolerance=tolerance)
    check_message_size(system, state, build=build)
    check_determinism(system, state, key=key, rounds=rounds)
    check_compilations(system, state, key=key, rounds=rounds)
    check_devices(system, state, key=key, rounds=rounds, tolerance=tolerance)
    if conserves:
        check_conservation(system, state, key=key, conserves=conserves, tolerance=tolerance)
    if vmappable:
        check_vmap(system, state, key=key, rounds=rounds, tolerance=tolerance)
    if differentiable:
        check_gradient(system, state, key=key, rounds=rounds)


def check_locality(
    system: AbstractSystem,
    state: State,
    *,
    key: Key[Array, ""],
    redraw: Redraw | None = None,
    poison: bool = True,
) -> None:
    """Check that an agent's response depends on its own state and the signal alone.

    Some agents are kept and all others redrawn, and then set to NaN: no bit of a kept agent's response may
    change. One compiled function is compared with itself. And neither the system's fields nor arrays that
    `respond` closes over may be as long as a population, since all agents could be read there.

    Raises:
        ConformanceError: if another agent is read, or if the same agents answer differently when asked twice.
    """
    law, redraw = "locality", disturbed if redraw is None else redraw
    for stage, before in walk(system, state, key):
        hold_no_population(stage, before)
        draws = draw_keys(before, key)
        expected = round_by_hand(stage, before.agents, before.signal, draws)[0]
        again = round_by_hand(stage, before.agents, before.signal, draws)[0]
        everybody = {name: np.ones(population_size(agents), bool) for name, agents in populations(before.agents)}
        if place := first_change(stage, before, expected, again, everybody):
            raise ConformanceError(law, f"{place} differs when the same agents are asked the same twice")
        others = [("redrawn", redraw(jax.random.fold_in(key, draw), before.agents)) for draw in range(2)]
        if poison:
            others.append(("set to NaN", jax.tree.map(poisoned, before.agents)))
        for kept in choose_kept(before, key):
            for what, replaced in others:
                mixed = mix(kept, before.agents, replaced)
                answers = round_by_hand(stage, mixed, before.signal, draws)[0]
                if place := first_change(stage, before, expected, answers, kept):
                    raise ConformanceError(
                        law,
                        f"{place} changes when other agents' private states are {what}; respond may read "
                        "its own agent and the signal, nothing else",
                    )


def check_permutation(
    system: AbstractSystem, state: State, *, key: Key[Array, ""], tolerance: float | None = None
) -> None:
    """Check that agents have no order: permute them with their numbers and keys, and their responses permute.

    Totals and the signal stay the same: whole numbers exactly, floats to rounding.

    Raises:
        ConformanceError: if a response depends on an agent's place, or a total on the order.
    """
    law = "permutation"
    for stage, before in walk(system, state, key):
        draws = draw_keys(before, key)
        answers, totals, signal = round_by_hand(stage, before.agents, before.signal, draws)
        order = {name: np.asarray(jax.random.permutation(key, numbers.size)) for name, (_, numbers) in draws.items()}
        agents, moved = reordered(before.agents, draws, order)
        after, permuted, heard = round_by_hand(stage, agents, before.signal, moved)
        for name, rows in answers.items():
            labels = name_answers(stage, before, name)
            for label, row, other in zip(labels, rows, after[name], strict=True):
                if apart(rows_of(row, order[name]), other, tolerance):
                    raise ConformanceError(law, f"{label} depends on the agent's place among the others")
        # What cancels in a sum is known only to the rounding of its terms.
        size = max((largest(row) * len(row) for rows in answers.values() for row in rows), default=0.0)
        for what, one, other in (("the total", totals, permuted), ("signal", signal, heard)):
            if (path := differing(one, other, tolerance, size * 1e-6)) is not None:
                raise ConformanceError(law, f"{what}{path} depends on the order of the agents")


def check_message_size(
    system: AbstractSystem,
    state: State,
    *,
    sizes: tuple[int, int] = (4, 400),
    build: Callable[[int], tuple[AbstractSystem, State]] | None = None,
) -> None:
    """Check that totals, signal and the bytes of a round are the same for few agents and for many.

    Nothing is computed: shapes are enough. Without `build` the state's own agents are repeated, and a signal
    or a total that is as long as a population counts as one entry per agent.

    Raises:
        ConformanceError: if a size grows with the number of agents.
    """
    law = "message size"
    if build is None:
        crowds = {population_size(agents) for _, agents in populations(state.agents)} - {1}
        _, totals, signal = round_shapes(system, canonical(state))
        for what, tree in (("signal", signal), ("the total", totals)):
            for path, leaf in tree_leaves_with_path(tree):
                if crowds & set(leaf.shape):
                    raise ConformanceError(
                        law,
                        f"{what}{keystr(path)} of shape {leaf.shape} is as long as a population; if that is "
                        "a coincidence, pass another number of agents, or build=",
                    )
    few, many = (build(n) if build is not None else (system, resized(state, n)) for n in sizes)
    few, many = (round_shapes(system, canonical(state)) for system, state in (few, many))
    for what, one, other in zip(("bytes per round", "the total", "signal"), few, many, strict=True):
        if one != other:
            raise ConformanceError(
                law,
                f"{what} depends on the number of agents: {one} for {sizes[0]} and {other} for {sizes[1]}",
            )


def check_conservation(
    system: AbstractSystem,
    state: State,
    *,
    key: Key[Array, ""],
    conserves: Mapping[str, Law],
    rounds: int = 64,
    tolerance: float | None = None,
) -> None:
    """Check that declared quantities do not drift over a run: whole numbers exactly, floats to rounding.

    They are compared between the chunks of the run and at its end.

    Raises:
        ConformanceError: if a quantity drifts, or the run fails.
    """
    law = "conservation"
    start = {name: jax.tree.leaves(quantity(state)) for name, quantity in conserves.items()}

    def compare(progress: Progress) -> None:
        for name, quantity in conserves.items():
            for before, now in zip(start[name], jax.tree.leaves(quantity(progress.state)), strict=True):
                # What starts at zero has no size of its own.
                floor = 0.0 if np.any(before) else tolerance_for(before, tolerance)
                if apart(before, now, tolerance, floor):
                    when = int(progress.state.round)
                    raise ConformanceError(law, f"{name} was {before} and is {now} after round {when}")

    finished(law, run(system, state, rounds, key=key, watch=compare))


def check_determinism(system: AbstractSystem, state: State, *, key: Key[Array, ""], rounds: int = 4) -> None:
    """Check that the same key gives the same run bit for bit, in one piece or in two, by pure rules.

    Raises:
        ConformanceError: if two runs differ, or if the rules change from one tracing to the next.
    """
    law = "determinism"
    for stage, before in walk(system, state, key):
        if program_text(stage, before) != program_text(stage, before):
            raise ConformanceError(
                law, "the rules read something that changes outside (a random generator, a clock, a counter)"
            )
    once, again = (run(system, state, 2 * rounds, key=key).state for _ in range(2))
    half = run(system, state, rounds, key=key).state
    pieces = run(system, half, rounds, key=key).state
    for what, other in (("twice with the same key", again), ("in two pieces", pieces)):
        for (path, one), two in zip(tree_leaves_with_path(once), jax.tree.leaves(other), strict=True):
            if bits(one) != bits(two):
                raise ConformanceError(law, f"state{keystr(path)} differs between one run and a run {what}")


def check_compilations(system: AbstractSystem, state: State, *, key: Key[Array, ""], rounds: int = 4) -> None:
    """Check that the rules are traced for the first run alone, however long the next, and from wherever.

    The next run is that of a copy of the system, since users build theirs anew.

    Raises:
        ConformanceError: if a second run traces `respond` again.
    """
    law, tally = "compilations", Tally()
    counted, equal = (
        Sequence(tuple(Counted(stage, tally) for stage in stages(one))) for one in (system, copy.deepcopy(system))
    )
    first = run(counted, state, rounds, key=key)
    kinds = len(stages(system)) * len(list(populations(state.agents)))
    traces = tally.traces
    if traces > 3 * kinds:
        raise ConformanceError(law, f"respond is traced {traces} times in one run; {3 * kinds} are enough")
    run(equal, first.state, rounds + 9, key=jax.random.fold_in(key, 1))
    if tally.traces != traces:
        raise ConformanceError(
            law,
            "a second run, of an equal system, traces respond again; has a static field of it no equality?",
        )


def check_devices(
    system: AbstractSystem,
    state: State,
    *,
    key: Key[Array, ""],
    rounds: int = 4,
    devices: tuple[int, ...] = (2, 8),
    tolerance: float | None = None,
) -> None:
    """Check that the run is the same on any number of devices, and with agents taken block by block.

    Whole numbers agree exactly, floats to rounding. Numbers of devices that are not at hand are left out.

    Raises:
        ConformanceError: if a run depends on where the agents are.
    """
    law = "devices"
    alone = run(system, state, rounds, key=key)
    finished(law, alone)
    places: list[tuple[str, dict]] = [("in blocks of 3 agents", {"block": 3})]
    if at_hand := [count for count in devices if count <= len(jax.devices())]:
        # Blocks on the first number of devices, to save a compilation.
        places = [(f"on {count} devices", {"mesh": mesh(count)}) for count in at_hand]
        places[0] = (f"{places[0][0]} in blocks of 3 agents", {**places[0][1], "block": 3})
    for where, options in places:
        spread = run(system, state, rounds, key=key, **options).state
        if (path := differing(alone.state, spread, tolerance)) is not None:
            raise ConformanceError(law, f"state{path} comes out differently {where}")


def check_vmap(
    system: AbstractSystem,
    state: State,
    *,
    key: Key[Array, ""],
    rounds: int = 4,
    seeds: int = 3,
    tolerance: float | None = None,
) -> None:
    """Check that runs under `jax.vmap` over seeds are those of a loop, to rounding.

    Raises:
        ConformanceError: if a seed's run depends on the others.
    """
    keys = jax.random.split(key, seeds)
    together = jax.jit(jax.vmap(lambda key: run(system, state, rounds, key=key).state))(keys)
    for seed in range(seeds):
        alone = run(system, state, rounds, key=keys[seed]).state
        own = jax.tree.map(lambda leaf: rows_of(leaf, seed), together)  # noqa: B023
        if (path := differing(alone, own, tolerance)) is not None:
            raise ConformanceError("vmap", f"state{path} differs between a loop over seeds and vmap")


def check_gradient(
    system: AbstractSystem, state: State, *, key: Key[Array, ""], rounds: int = 4, directions: int = 3
) -> None:
    """Check the derivative of the signal after a run against central differences.

    The objective weighs the final signal at random; the directions disturb the system's arrays, the private
    states and the signal after the first round, each entry in proportion to itself.

    Raises:
        ConformanceError: if they disagree, or there is nothing to differentiate.
    """
    law = "gradient"
    state = run(system, canonical(state), 1, key=key).state
    point, fixed = eqx.partition((system, state.agents, state.signal), eqx.is_inexact_array)

    @jax.jit
    def final(point: PyTree) -> list[Array]:
        system, agents, signal = eqx.combine(point, fixed)
        after = run(system, State(agents, signal, state.round), rounds, key=key).state.signal
        return [leaf for leaf in jax.tree.leaves(after) if jnp.issubdtype(leaf.dtype, jnp.inexact)]

    nominal, draw = final(point), np.random.default_rng(np.asarray(jax.random.key_data(key)))
    if not nominal or not jax.tree.leaves(point):
        raise ConformanceError(law, "declared differentiable, but signal or system and agents hold no floats")
    # Away from zero, so that a signal of one number counts.
    signs = [draw.choice([-1.0, 1.0], x.shape) * (1 + draw.random(x.shape)) for x in nominal]
    weights = [(w / max(largest(x), 1e-30)).astype(x.dtype) for w, x in zip(signs, nominal, strict=True)]

    def value(point: PyTree) -> float:
        return inner(weights, final(point))

    gradient = jax.jit(lambda point, weights: jax.vjp(final, point)[1](weights)[0])(point, weights)
    leaves, structure = jax.tree.flatten(point)
    for _ in range(directions):
        noise = [np.asarray(x) * draw.normal(size=x.shape).astype(x.dtype) for x in leaves]
        slope, direction = inner(jax.tree.leaves(gradient), noise), jax.tree.unflatten(structure, noise)
        if not slope_fits(value, point, direction, slope):
            seen = difference(value, point, direction, step_length(leaves))
            raise ConformanceError(
                law,
                f"the derivative along a direction is {slope:.6g}; finite differences give {seen:.6g}",
            )


def inner(one: list, other: list) -> float:
    """Return the inner product of two lists of arrays, in double precision."""
    pairs = zip(one, other, strict=True)
    return float(sum(np.vdot(np.asarray(a, float), np.asarray(b, float)) for a, b in pairs))
