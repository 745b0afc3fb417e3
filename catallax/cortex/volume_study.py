"""The part of `catallax run cortex --show volume` that lets a modulator spread, and neurons learn where it reaches."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from ..certificate import Certificate
from ..core.run import run as engine
from ..core.system import Populations, State
from ..study import Film, Outcome, Section
from .figures import draw_lines
from .volume import (
    MOLECULES,
    LinearUptake,
    MichaelisMenten,
    Plastic,
    Terminal,
    Tissue,
    box,
    burst,
    burst_concentration,
    calm,
    medium,
    peak_table,
    radial,
    steady_concentration,
)

if TYPE_CHECKING:
    from ..runs.store import RunContext

VESICLE = 3000 / MOLECULES
"""What one release sets free, µM·µm³."""

MOST, HALF = 4.1, 0.21
"""Dopamine's uptake in the striatum, µM/s and µM."""

RATE = MOST / HALF
"""The same for small concentrations, 1/s."""

BURST_MS, BURST_STEPS = (0.5, 1.0, 2.0, 4.0), 4
"""When a burst is looked at, and rounds per the first of these times."""

CLOSE = 0.01
"""How far from a closed form a solution may be, as a part of it."""

SIDE, CELLS, NEURONS = 60.0, 32, 8
"""The tissue that neurons learn in: µm and cells a side, and neurons a side."""

RELEASES = ((-15.0, -12.0, 400.0), (18.0, 16.0, 150.0))
"""Where terminals release, µm down and to the right of the middle, and how much, µM·µm³ per s and µm of depth."""

SECONDS, FRAMES, EVERY, GAIN = 0.01, 40, 10, 20.0
"""The length of a round, pictures of the film, rounds from one to the next, and how fast neurons learn."""

SEEN = np.array([np.sin(1.2), np.cos(1.2)])
"""What all neurons see. Their fields begin along the second input."""


def execute(options: Any, run: "RunContext") -> Outcome:
    """Compare with closed forms, and let neurons learn by three factors; write tables and pictures."""
    del options
    began = time.monotonic()
    bursts, burst_error = around_a_burst()
    around, steady_error = around_a_source()
    run.progress.update(round=1, total=3, note="neurons learn where the modulator reaches")
    seen, met, fields = learnt(RELEASES)
    *_, still = learnt([(down, right, 0.0) for down, right, _ in RELEASES])
    run.progress.update(round=2, total=3, note="peaks with and without uptake")
    peaks = peak_table()
    table = learning_table(met, fields)
    for name, columns in (("peaks", peaks), ("learning", table)):
        run.write_table(name, columns)
    claims = [
        Certificate(
            "burst", burst_error, CLOSE, "how far a burst that spreads is from the closed form, as a part of it"
        ),
        Certificate("steady", steady_error, CLOSE, "the same for the surroundings of a steady source"),
        Certificate("balance", lost(), 1e-5, "the part of what was released that is lost where nothing takes it up"),
        Certificate("gate", float(np.abs(still - still[0]).max()), 0.0, "what neurons learn without any modulator"),
    ]
    drawn = {"burst": bursts, "steady": around, "learning": learning_curve(table)}
    figures = {name: run.write_figure(name, draw_lines(**given)) for name, given in drawn.items()}
    aligned = np.asarray(table["alignment"])
    said = [
        f"uptake leaves {peaks['kept'][1]:.1%} of one vesicle's peak at {peaks['distance'][1]:g} µm, "
        f"{peaks['kept'][-1]:.0%} at {peaks['distance'][-1]:g} µm",
        f"{np.mean(aligned > 0.95):.0%} of {aligned.size} neurons have learnt what all of them see, those that the "
        "modulator reached",
        f"{time.monotonic() - began:.1f} s",
    ]
    return Outcome(
        title="Volume transmission: a modulator that says where to learn",
        status="finished",
        certificates=claims,
        summary=said,
        sections=sections(peaks, table, film(seen, fields), figures),
    )


def around_a_burst() -> tuple[dict[str, Any], float]:
    """Let one vesicle's content spread and be taken up, in three dimensions.

    Returns:
        What `draw_lines` needs, and the largest error as a part of the closed form.
    """
    space, uptake = radial(8.0, 120), LinearUptake(RATE)
    seconds, last = BURST_MS[0] / 1e3 / BURST_STEPS, round(BURST_MS[-1] / BURST_MS[0]) * BURST_STEPS
    first = State(Terminal(jnp.zeros(1, jnp.int32), jnp.zeros(1)), Tissue(burst(space, 0, VESICLE), jnp.zeros(1)))
    seen = np.asarray(engine(medium(space, uptake, seconds=seconds), first, last, record=_concentration).record)
    distance, curves, error = space.centres[0], {}, 0.0
    for moment in BURST_MS:
        found = seen[round(moment / BURST_MS[0]) * BURST_STEPS - 1]
        wanted = burst_concentration(distance, moment / 1e3, VESICLE, rate=RATE)
        near = distance < 2 * np.sqrt(2 * 322 * moment / 1e3)
        error = max(error, float(np.max(np.abs(found - wanted)[near] / wanted[near])))
        curves |= {f"{moment:g} ms": (distance[near], found[near])}
    return {"curves": curves, "x": "distance, µm", "y": "concentration, µM", "marks": False}, error


def around_a_source() -> tuple[dict[str, Any], float]:
    """Let a source release steadily until nothing changes; compare as `around_a_burst` does."""
    space, uptake, rate = radial(20.0, 200), LinearUptake(RATE), 10.0
    first = State(Terminal(jnp.zeros(1, jnp.int32), jnp.array([rate])), calm(space))
    found = np.asarray(engine(medium(space, uptake, seconds=2e-4), first, 2500).state.signal.concentration)
    distance = space.centres[0]
    wanted = steady_concentration(distance, rate, rate=RATE)
    between = (distance > 1) & (distance < 8)
    error = float(np.max(np.abs(found - wanted)[between] / wanted[between]))
    curves = {"computed": (distance[between], found[between]), "closed form": (distance[between], wanted[between])}
    return {"curves": curves, "x": "distance, µm", "y": "concentration, µM", "marks": False}, error


def lost() -> float:
    """Return the part of a release that is gone after a while in a box without uptake."""
    space = box([20.0, 20.0], [21, 21])
    first = State(Terminal(jnp.array([space.site(3.0, -2.0)], jnp.int32), jnp.array([2.0])), calm(space))
    system = medium(space, LinearUptake(0.0), seconds=0.005)
    left = np.asarray(engine(system, first, 100).state.signal.concentration, np.float64)
    return abs(float(np.sum(left * space.volumes)) * float(system.fraction) / (2.0 * 0.005 * 100) - 1)


def learnt(releases: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Let terminals release and neurons learn.

    Args:
        releases: For each terminal where it is, down and to the right of the middle in µm, and its rate.

    Returns:
        The concentration in every picture, (pictures, cells, cells); its mean over time at each neuron, (neurons,);
        and the neurons' fields in every picture, (pictures, neurons, 2).
    """
    space = box([SIDE, SIDE], [CELLS, CELLS])
    block = CELLS // NEURONS
    inside = np.arange(NEURONS) * block + block // 2
    sites = (inside[:, None] * CELLS + inside).ravel()
    terminals = Terminal(
        jnp.array([space.site(down, right) for down, right, _ in releases], jnp.int32),
        jnp.array([rate for *_, rate in releases]),
    )
    start = jnp.tile(jnp.array([[0.0, 1.0]]), (sites.size, 1))
    neurons = Plastic(jnp.asarray(sites, jnp.int32), start, jnp.zeros_like(start))
    system = medium(space, MichaelisMenten(MOST, HALF), seconds=SECONDS, gain=GAIN, memory=0.1)
    state = State(Populations(terminals=terminals, neurons=neurons), calm(space, SEEN))
    seen, fields = engine(system, state, FRAMES * EVERY, record=_tissue, every=EVERY).record
    seen = np.asarray(seen)
    return seen, seen.reshape(len(seen), -1)[:, sites].mean(axis=0), np.asarray(fields)


def _concentration(state: State) -> Any:
    return state.signal.concentration


def _tissue(state: State) -> Any:
    return state.signal.concentration, state.agents["neurons"].field


def learning_table(met: np.ndarray, fields: np.ndarray) -> dict[str, list[float]]:
    """Return for each neuron its mean concentration, and the cosine of its field with its input, first and last."""
    aligned = fields @ SEEN / np.linalg.norm(fields, axis=-1)
    order = np.argsort(met)
    columns = {
        "neuron": order,
        "concentration": met[order],
        "alignment at first": aligned[0, order],
        "alignment": aligned[-1, order],
    }
    return {name: column.tolist() for name, column in columns.items()}


def learning_curve(table: Mapping[str, list[float]]) -> dict[str, Any]:
    """Return what `draw_lines` needs."""
    curves = {
        f"after {FRAMES * EVERY * SECONDS:g} s": (np.array(table["concentration"]), np.array(table["alignment"])),
        f"after {EVERY * SECONDS:g} s": (np.array(table["concentration"]), np.array(table["alignment at first"])),
    }
    return {
        "curves": curves,
        "x": "mean concentration where the neuron is, µM",
        "y": "cosine of its field with what it sees",
        "log": True,
    }


def film(seen: np.ndarray, fields: np.ndarray) -> Film:
    """Return pictures of the concentration, with the neurons' fields as arrows."""
    return Film(
        frames=seen,
        labels=[f"{(number + 1) * EVERY * SECONDS:.1f} s" for number in range(len(seen))],
        unit="concentration, µM",
        top=float(seen.max()),
        arrows=fields.reshape(len(seen), NEURONS, NEURONS, 2).clip(-1, 1),
    )


def sections(
    peaks: Mapping[str, list[float]], table: Mapping[str, list[float]], learning: Film, figures: Mapping[str, str]
) -> list[Section]:
    """Return the body of the report."""
    low, high = table["concentration"][0], table["concentration"][-1]
    return [
        Section(
            "A modulator that says where to learn",
            "Two terminals release dopamine into a piece of tissue; it diffuses, and transporters take it up. Neurons "
            "all see the same two inputs. Each keeps a trace of what Hebb's rule would have it learn, and "
            "learns it only as fast as the modulator where it stands allows: input, own activity and "
            "concentration are the three factors. An arrow is a neuron's field. All begin towards the right; those "
            "that the modulator reaches turn to what they see.",
            film=learning,
            note=f"{SIDE:g} × {SIDE:g} µm, mean concentrations from {low:.2g} to {high:.2g} µM at the neurons. Without "
            "modulator no field moves at all.",
        ),
        Section(
            "Learning against concentration",
            figure=figures["learning"],
            file="answer/learning.csv",
        ),
        Section(
            "One vesicle",
            "The content of one vesicle, 3,000 molecules, in three dimensions at some moments after its release, with "
            "linear uptake.",
            figure=figures["burst"],
            note="The certificate compares each curve with Q/(α(4πD*t)^{3/2}) exp(−r²/4D*t − k't).",
        ),
        Section(
            "How far it reaches",
            "The highest concentration that one vesicle brings about at a distance, with the striatum's uptake and "
            "without any. Uptake is too slow to change the peak within a micrometre, and decides further out (Rice & "
            "Cragg 2008).",
            {
                "distance, µm": peaks["distance"],
                "peak without uptake, µM": peaks["free"],
                "peak, µM": peaks["taken_up"],
                "ratio": peaks["kept"],
            },
            file="answer/peaks.csv",
        ),
        Section(
            "A steady source",
            "What surrounds a point that has long released.",
            figure=figures["steady"],
            note="In closed form q/(4πD*αr) exp(−r/√(D*/k')).",
        ),
    ]
