"""What `catallax run experts` does: train a model with each router, measure all alike, write tables and pictures."""

import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..certificate import Certificate
from ..core.result import Status
from ..errors import InputError, did_you_mean
from ..runs.files import write_whole
from ..runs.store import RunContext
from ..study import Outcome, settings
from . import options as face
from .compare import MEASURES, PACE, TRAIN_VIOLATION
from .evaluate import calibrate
from .figures import by_kind, draw_learning, draw_loads, draw_prices, draw_served
from .judge import Judged, certify_batch, judge
from .model import DENSE, SPECIALIST, LanguageModel, Shape, load
from .options import Options
from .sample import generate as go_on
from .sections import Findings, sections, summary
from .text import Corpus, check, plays, read_texts, split
from .trade import LOSSES
from .train import Progress, Record, Settings, first_training, train

EVERY = 20
"""Steps between two looks at a training: each is recorded, and checkpointed."""

ROUNDS = 3
"""So many times each router's steps are timed, in turns; the quickest counts."""

PROMPT = 64
"""A model writes after so many bytes of the text that was held out."""

TRAINING = 0.03
"""The largest MaxVio that is promised of the market: of each training batch, from the first on."""

TEMPERATURE = 0.8
"""How freely models write."""


def execute(options: Options, run: RunContext) -> Outcome:
    """Train a model with each router, measure them, write tables, pictures and models.

    Raises:
        InputError: for texts that are refused, nothing has been written then; if a loss is no longer a number.
        KeyboardInterrupt: after a checkpoint, if the user wishes to stop.
    """
    if run.devices > 1:
        raise InputError(f"the study of experts runs on one device; leave out --devices {run.devices}")
    began = time.monotonic()
    corpus = read_texts(options.text) if options.text else plays()
    seen, held = split(corpus)
    for part in (seen, held):
        check(part, options.context)
    for router in options.routers:
        taught(options, run, seen, router)
    judged = [found(options, run, held, router) for router in options.routers]
    for one, pace in zip(judged, paces(options, run, seen), strict=True):
        one.scores[PACE] = pace
    findings = Findings(options, (seen.size, held.size), judged)
    write_tables(run, findings)
    figures = pictures(run, findings)
    findings = dataclasses.replace(findings, figures=figures, seconds=time.monotonic() - began)
    names = ", ".join(corpus.names)
    return Outcome(
        title=f"{options.experts} experts compete for the bytes of {names}" if "market" in options.routers else names,
        status=str(Status.FINISHED),
        certificates=[claim for one in judged for claim in one.certificates],
        summary=summary(findings),
        sections=sections(findings),
        attribution="" if options.text else "Text: plays of William Shakespeare, in the public domain.",
    )


def shape_of(options: Options, router: str) -> Shape:
    """Return the sizes of the model that is trained with a router."""
    return Shape(
        width=options.width,
        blocks=options.layers,
        heads=options.heads,
        context=options.context,
        experts=options.experts,
        active=options.active,
        hidden=options.hidden,
        shared=options.shared,
        router=router,
        capacity_factor=options.capacity,
    )


def learning(options: Options, router: str) -> dict[str, Any]:
    """Return what `train` is told of how a model learns."""
    return {
        "settings": Settings(batch=options.batch, rate=options.rate),
        "objective": LOSSES["global" if router == DENSE else options.objective],
        "every": min(EVERY, options.steps),
    }


def model_file(directory: Path, router: str) -> Path:
    """Return where a run keeps the model that was trained with a router."""
    return directory / "answer" / f"{router}.safetensors"


def taught(options: Options, run: RunContext, seen: Corpus, router: str) -> None:
    """Train a model with a router and save it; continue where a run was interrupted.

    A model that is saved was trained to its end. The history ends where the checkpoint was written, and so its last
    record says whose checkpoint it is.

    Raises:
        InputError: if the loss is no longer a number.
        KeyboardInterrupt: after a checkpoint, if the user wishes to stop.
    """
    file, told = model_file(run.directory, router), learning(options, router)
    if file.exists():
        return
    state, before = first_training(shape_of(options, router), told["settings"], seed=run.seed), past(run)
    if before and before[-1]["router"] == router:
        state = run.restore(state)
    steps_before = options.routers.index(router) * options.steps  # type: ignore[arg-type]

    def watch(now: Progress) -> bool:
        step, last = int(now.training.step), summed(router, now.record)
        run.record(*([last] if last else []))
        run.checkpoint(now.training)
        run.progress.update(
            round=steps_before + step,
            total=options.steps * len(options.routers),
            certificate=last.get("max_violation"),
            note=f"{router}, loss {last.get('loss', math.nan):.3f}, {now.speed:,.0f} tokens/s",
        )
        return run.stopped

    done = train(seen, steps=options.steps, seed=run.seed, state=state, watch=watch, **told)
    if done.status == Status.NON_FINITE:
        raise InputError(
            f"with the router {router!r} the loss stopped being a number; training stands at its last good "
            f"checkpoint, step {int(done.training.step):,}: start anew with a smaller --rate"
        )
    if done.status == Status.STOPPED:
        raise KeyboardInterrupt
    states = calibrate(done.model, done.states, seen, batch=options.batch)
    file.parent.mkdir(exist_ok=True)
    done.model.save(file, states)


def summed(router: str, record: Record) -> dict[str, Any]:
    """Return what is recorded of a chunk of steps; nothing if it has none."""
    if not record.step.size:
        return {}
    found: dict[str, Any] = {"router": router, "step": int(record.step[-1]), "loss": float(record.loss.mean())}
    if record.logs:
        logs = record.logs
        found |= {
            "max_violation": float(logs.max_violation.max()),
            "dropped": float(logs.dropped.max()),
            "entropy": float(logs.entropy.mean()),
            "dead": int(logs.dead.sum(axis=1).max()),
            "load": logs.load.sum(axis=0).tolist(),
            "price": record.price[-1].tolist(),
        }
    return found


def past(run: RunContext) -> list[dict[str, Any]]:
    """Return all that the history holds, what an interrupted run wrote before it was resumed included."""
    lines = (run.directory / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def found(options: Options, run: RunContext, held: Corpus, router: str) -> Judged:
    """Measure the model that was trained with a router, certify its market, and let it write.

    Raises:
        KeyboardInterrupt: if the user wishes to stop.
    """
    if run.stopped:
        raise KeyboardInterrupt
    run.progress.update(round=options.steps * len(options.routers), note=f"{router}, validation")
    model, states = load(model_file(run.directory, router), shape_of(options, router))
    rows = [row for row in past(run) if row["router"] == router]
    one = judge(router, model, states, held, rows, options.batch)
    if router == next((name for name in options.routers if name in ("market", SPECIALIST)), None):
        claims = [*certify_batch(model, states, held, options.batch), balance(one.scores)]
        one = dataclasses.replace(one, certificates=claims)
    if options.sample:
        prompt = held.texts[0][: min(PROMPT, options.context)].tobytes()
        text = written(model, states, prompt, options.sample, TEMPERATURE, run.seed)
        write_whole(run.directory / "answer" / f"{router}.txt", text)
        one = dataclasses.replace(one, text=text)
    return one


def balance(scores: Mapping[str, float]) -> Certificate:
    """Return what is promised of the market's loads in training; on unseen text they are measured, and not promised."""
    return Certificate(
        TRAIN_VIOLATION,
        scores[TRAIN_VIOLATION],
        TRAINING,
        "the largest excess over the mean load that tokens of a training batch ever asked of an expert",
    )


def paces(options: Options, run: RunContext, seen: Corpus) -> list[float]:
    """Time the steps of every router's training in turns, milliseconds a step."""
    spent: list[list[float]] = [[] for _ in options.routers]
    for _ in range(ROUNDS):
        for times, router in zip(spent, options.routers, strict=True):
            model, states = load(model_file(run.directory, router))
            told = learning(options, router)
            state = first_training(model.shape, told["settings"])._replace(model=model, states=states)

            def watch(now: Progress, times: list[float] = times) -> None:
                times.append(1e3 * options.batch * options.context / now.speed)

            train(seen, steps=told["every"], seed=run.seed, state=state, watch=watch, **told)
    return [min(times) for times in spent]


def write_tables(run: RunContext, findings: Findings) -> None:
    """Write what was compared, the losses by domain, who served whom, and the prices."""
    judged = findings.judged
    compared = [(one.router, name, one.scores[name]) for one in judged for name in MEASURES]
    run.write_table("comparison", _columns(("router", "measure", "value"), compared))
    by_domain = [(one.router, *pair) for one in judged for pair in one.domains.items()]
    run.write_table("domains", _columns(("router", "domain", "loss"), by_domain))
    rows, prices = [], []
    for one in judged:
        for about, (names, counts) in one.served.items():
            for (layer, expert, kind), count in np.ndenumerate(counts):
                rows.append((one.router, layer + 1, expert, about, names[kind], int(count)))
        for step, price in zip(one.curve["step"].tolist(), one.curve.get("price", ()), strict=False):
            prices += [(one.router, step, layer + 1, expert, value) for (layer, expert), value in np.ndenumerate(price)]
    run.write_table("served", _columns(("router", "layer", "expert", "about", "kind", "tokens"), rows))
    accounts = [
        (one.router, layer + 1, expert, gain, one.accounts["revenue"][layer, expert])
        for one in judged
        for (layer, expert), gain in np.ndenumerate(one.accounts.get("gain", ()))
    ]
    run.write_table("accounts", _columns(("router", "layer", "expert", "gain", "revenue"), accounts))
    run.write_table("prices", _columns(("router", "step", "layer", "expert", "price"), prices))


def _columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list]:
    """Turn rows into columns."""
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def pictures(run: RunContext, findings: Findings) -> dict[str, str]:
    """Draw what there is to see; return the pictures' texts by name."""
    curves = {one.router: one.curve for one in findings.judged}
    losses = {name: (curve["step"], curve["loss"]) for name, curve in curves.items()}
    uneven = {name: (one["step"], one["max_violation"]) for name, one in curves.items() if "max_violation" in one}
    drawn = {"learning": draw_learning(losses, uneven, TRAINING)}
    loads = {name: curve["load"][:, -1] for name, curve in curves.items() if "load" in curve}
    if loads:
        steps = max((curves[name]["step"] for name in loads), key=len)
        relative = {name: load / load.mean(axis=1, keepdims=True) for name, load in loads.items()}
        drawn["loads"] = draw_loads(relative, steps)
    first = findings.first
    if first.served:
        if np.any(first.curve["price"]):
            drawn["prices"] = draw_prices(first.curve["step"], first.curve["price"])
        drawn["served"] = draw_served(shares(first))
    return {name: run.write_figure(name, figure) for name, figure in drawn.items()}


def shares(one: Judged) -> dict[str, tuple[Sequence[str], np.ndarray]]:
    """Return how the tokens of each kind are spread over the last layer's experts, those of one kind together."""
    panels, order = {}, None
    for about in ("byte", "domain"):
        names, counts = one.served[about]
        last = counts[-1].T
        share = last / np.maximum(last.sum(axis=1, keepdims=True), 1)
        order = by_kind(share) if order is None else order
        some = last.sum(axis=1) > 0
        panels[about] = ([name for name, here in zip(names, some, strict=True) if here], share[some][:, order])
    return panels


def written(model: LanguageModel, states: Any, prompt: bytes, count: int, temperature: float, seed: int) -> str:
    """Return a prompt and what a model makes of it; what is no UTF-8 is shown as a replacement character."""
    return (prompt + go_on(model, states, prompt, count, temperature=temperature, seed=seed)).decode("utf-8", "replace")


def generate(directory: Path, prompt: str, *, model: str, count: int, temperature: float, seed: int) -> str:
    """Let a model of a run go on with a text.

    Args:
        directory: The run's.
        prompt: What the text begins with; nothing begins a line.
        model: The router with which it was trained; nothing for the first of the run's.
        count: How many bytes to write.
        temperature: How freely; 0 takes the likeliest byte each time.
        seed: Of the draws.

    Raises:
        InputError: if the run has no such model, or a number is out of range.
    """
    if count < 0 or not 0 <= temperature < math.inf or seed < 0:
        raise InputError(
            f"--count is {count}, --temperature {temperature:g} and --seed {seed}; none may be negative or infinite"
        )
    routers = settings(face.study, config=directory / "config.toml").options.routers
    there = [router for router in routers if model_file(directory, router).exists()]
    if not there:
        raise InputError(
            f"has no model yet; train one to its end: catallax run experts --resume {directory}", file=directory
        )
    if model and model not in there:
        offer = did_you_mean(model, there) or f"; there are {', '.join(there)}"
        raise InputError(f"has no model {model!r}{offer}", file=directory)
    trained, states = load(model_file(directory, model or there[0]))
    return written(trained, states, os.fsencode(prompt) or b"\n", count, temperature, seed)
