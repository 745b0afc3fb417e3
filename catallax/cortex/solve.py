"""The answer: each stimulus's activity at the rest of competition, with its certificates."""

import dataclasses
from typing import Any

import numpy as np

from ..certificate import Certificate
from ..core.result import Status
from .certify import certify, certify_hard, scores
from .problem import SparseCoding

LAWS = ("fast", "kernel", "competition")
THRESHOLDS = ("soft", "hard")


@dataclasses.dataclass(frozen=True, eq=False)
class Codes:
    """What the units answer to the stimuli.

    Args:
        problem: The question; with winners, at the prices found.
        activity: Shape (samples, units), in the dtype of the stimuli; sparse CSR from the kernel.
        status: `SETTLED` only if every certificate holds.
        certificates: The independent checks.
        rounds: How many rounds it took.
        law: The name of the law of motion.
    """

    problem: SparseCoding
    activity: Any
    status: Status
    certificates: tuple[Certificate, ...]
    rounds: int
    law: str

    @property
    def objective(self) -> np.ndarray:
        """½|x − aD|² + λ|a|₁ of each sample, shape (samples,), float64."""
        return scores(self.problem, self.activity).objective


def encode(
    stimuli: Any,
    dictionary: Any,
    penalty: Any,
    *,
    signed: bool = True,
    law: str = "fast",
    threshold: str = "soft",
    winners: int | None = None,
    tol: float = 1e-5,
    max_rounds: int | None = None,
    start: Any = None,
) -> Codes:
    """Let units compete for stimuli until they rest.

    Args:
        stimuli: Shape (samples, inputs); float64 stimuli are computed in float64, all others in float32.
        dictionary: Receptive fields of norm one, shape (units, inputs).
        penalty: λ, one number or one per sample; with `winners`, where the price of activity starts.
        signed: Whether a unit may be active with either sign.
        law: "fast" (any device), "kernel" (asynchronous competition compiled for the CPU, float32, sparse activity)
            or "competition" (the reference dynamics). All come to the same rest.
        threshold: "soft", or "hard" for the competition law alone.
        winners: How many units shall be active in each sample, for the competition law alone.
        tol: The largest duality gap per objective.
        max_rounds: When to give up.
        start: Activity to start from, shape (samples, units).

    Returns:
        The activity with its certificates; its status is `SETTLED` only if all of them hold.

    Raises:
        InputError: naming the sample or unit that cannot be used.
        ValueError: if law, threshold and winners do not go together.
    """
    problem = SparseCoding(stimuli, dictionary, penalty, signed)
    _check_choice(problem, law, threshold, winners, start)
    if law == "competition":
        return _compete(problem, threshold, winners, tol, max_rounds or 20_000, start)
    reach = _reachable(problem, tol)
    if law == "kernel":
        from .kernel import encode as settle_kernel

        rounds = max_rounds or 100
        activity = settle_kernel(
            problem.stimuli,
            problem.dictionary,
            float(problem.penalty),
            signed=signed,
            tol=reach,
            max_rounds=rounds,
            start=start,
        )
    else:
        from .fast import settle_fast

        activity, rounds = settle_fast(problem, tol=reach, max_rounds=max_rounds or 10, start=start)
    return _certified(problem, activity, rounds, law, certify(problem, activity, tol=tol))


def _check_choice(problem: SparseCoding, law: str, threshold: str, winners: int | None, start: Any) -> None:
    if law not in LAWS:
        raise ValueError(f"{law!r} is no law of motion of competing units: {', '.join(LAWS)}")
    if threshold not in THRESHOLDS:
        raise ValueError(f"{threshold!r} is no threshold: {', '.join(THRESHOLDS)}")
    if law != "competition" and (threshold != "soft" or winners is not None):
        raise ValueError(f"the {law} law knows soft thresholds at a fixed penalty alone; take law='competition'")
    if winners is not None and not 1 <= winners <= problem.units:
        raise ValueError(f"winners={winners} of {problem.units} units; give at least one and at most all")
    if law == "kernel" and np.ndim(problem.penalty):
        raise ValueError("the kernel takes one penalty for all samples; take law='fast'")
    if start is not None and start.shape != (problem.samples, problem.units):
        raise ValueError(f"start has shape {start.shape}; give ({problem.samples}, {problem.units})")


def _reachable(problem: SparseCoding, tol: float) -> float:
    """Return the violation per penalty to stop at: half the tolerance, or what the stimuli's dtype resolves."""
    largest = float(np.max(np.linalg.norm(problem.stimuli, axis=1) / problem.penalty))
    return max(tol / 2, 6 * float(np.finfo(problem.stimuli.dtype).eps) * largest)


def _compete(
    problem: SparseCoding, threshold: str, winners: int | None, tol: float, max_rounds: int, start: Any
) -> Codes:
    """Run the reference dynamics to rest."""
    import jax
    import jax.numpy as jnp

    from ..core.settle import settle
    from .fast import largest_eigenvalue
    from .rules import Competition, Within, first_state, hard, read_activity, soft

    dtype = problem.stimuli.dtype
    with jax.enable_x64(dtype == np.float64):
        penalty = np.broadcast_to(np.asarray(problem.penalty, dtype), problem.samples)
        step = min(1.0, 1 / largest_eigenvalue(problem.dictionary))
        system = Competition(
            stimuli=jnp.asarray(problem.stimuli),
            penalty=jnp.asarray(penalty),
            step=jnp.asarray(step, dtype),
            threshold={"soft": soft, "hard": hard}[threshold],
            signed=problem.signed,
            winners=winners,
        )
        state = first_state(system, jnp.asarray(problem.dictionary, dtype), start)
        within = Within(jnp.asarray(_reachable(problem, tol), dtype))
        settled = settle(system, state, distance=within, max_rounds=max_rounds)
        activity = np.asarray(read_activity(system, settled.state))
        if winners is not None:
            price = np.asarray(settled.signal.price, float)
            problem = SparseCoding(problem.stimuli, problem.dictionary, price, problem.signed)
    check = certify if threshold == "soft" else certify_hard
    codes = _certified(problem, activity, int(settled.rounds), "competition", check(problem, activity, tol=tol))
    failed = settled.status not in (Status.SETTLED, Status.OUT_OF_ROUNDS)
    return dataclasses.replace(codes, status=settled.status) if failed else codes


def _certified(problem: SparseCoding, activity: Any, rounds: int, law: str, certificates: list[Certificate]) -> Codes:
    holds = all(certificate.holds for certificate in certificates)
    status = Status.SETTLED if holds else Status.OUT_OF_ROUNDS
    return Codes(problem, activity, status, tuple(certificates), rounds, law)
