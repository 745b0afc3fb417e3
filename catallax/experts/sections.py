"""The words and tables of the report on experts that compete for tokens."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..study import Section
from .compare import BYTE_BITS, DOMAIN_BITS, HELD_VIOLATION, LOSS, MEASURES, PACE, TRAIN_VIOLATION
from .judge import Judged
from .options import Options

WHAT = {
    "market": "prices clear each batch: every expert is asked for as often as it has places",
    "none": "no balancing: each token goes to the experts of highest affinity",
    "auxiliary": "a further loss punishes unequal loads (Shazeer et al. 2017)",
    "sign": "after each batch, a bias moves by a fixed step against the load (Wang et al. 2024)",
    "proportional": "the same, by a step in proportion to the excess load",
    "late": "prices that would have cleared the batch before",
    "sinkhorn": "a balanced transport plan of the batch (Clark et al. 2022)",
    "auction": "tokens bid until every expert has its part of the batch (Lewis et al. 2021)",
    "choice": "experts choose tokens (Zhou et al. 2022)",
    "hash": "a fixed table from bytes to experts (Roller et al. 2021)",
    "threshold": "an expert serves whatever exceeds a threshold of its own",
    "causal": "a market in every sequence, at a price that has heard of its earlier tokens alone",
    "specialist": "the market, where tokens hear their sequence, are told apart by their byte and asked to decide",
    "vacant": "the market, made for a frozen price: tokens compare what suits them with what suited their text so far, "
    "and learn, with a tenth of places closed in training, to do with an expert less",
    "weighed": "a fixed table from bytes to experts, which refuse in training whom they weigh little",
    "dense": "no experts: one network that does as much work for each token",
}
"""What each router does, in a line."""

MOST = 12
"""How many rows the table of training shows."""

AIMS = {
    "global": "all parameters follow the one loss",
    "gain": "every expert follows what the tokens that it serves gain from it alone; all else follows the loss",
    "marginal": "every expert follows what the tokens that it serves gain from it beside their other experts; all else "
    "follows the loss",
    "revenue": "every expert follows its own revenue: what it earns at the price that earns most, from tokens that buy "
    "if they gain more; all else follows the loss",
}
"""What experts learn for."""


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """All that the report is made from.

    Args:
        options: What was asked for.
        bytes: How many bytes were learnt from and how many validate.
        judged: What came of each router, in the order asked for.
        seconds: From reading the texts to the answer.
        figures: The pictures' texts by name.
    """

    options: Options
    bytes: tuple[int, int]
    judged: Sequence[Judged]
    seconds: float = 0.0
    figures: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def first(self) -> Judged:
        """The router asked for first, which the pictures of prices and customers show."""
        return self.judged[0]


def summary(findings: Findings) -> list[str]:
    """Return the terminal's lines."""
    lines = []
    for one in findings.judged:
        scores = one.scores
        said = f"{one.router}: {scores[LOSS]:.4f} nats/byte held out"
        if one.served:
            said += (
                f", MaxVio {scores[TRAIN_VIOLATION]:.3f} training {scores[HELD_VIOLATION]:.3f} validation, "
                f"{scores['dropped at 1.0']:.1%} dropped at capacity 1.0"
            )
        lines.append(f"{said}, {scores[PACE]:.0f} ms a step")
    return [*lines, f"{findings.seconds:.1f} s"]


def sections(findings: Findings) -> list[Section]:
    """Return the body of the report."""
    found = [_question(findings), _comparison(findings), _training(findings), _domains(findings)]
    found += _better_off(findings) + _served(findings) + _prices(findings)
    return [*found, *_texts(findings), _words()]


def _question(findings: Findings) -> Section:
    options = findings.options
    text = (
        "A language model predicts the next byte of a text. In each of its layers experts serve tokens: every expert "
        "has a limited number of places and posts a price, and a token goes to the experts whose worth to it most "
        "exceeds their price. Below, the same model learns with each router from the same batches. No expert ever "
        "serves more tokens than it has places, in training or after."
    )
    places = f"{options.capacity:g} per place that tokens need"
    terms = {
        "Texts": ", ".join(findings.first.domains) + f": {findings.bytes[0]:,} bytes to learn from and "
        f"{findings.bytes[1]:,}, the last part of each text, to validate",
        "Model": f"{options.layers} layers of width {options.width}, {options.heads} heads, a context of "
        f"{options.context} bytes",
        "Experts": f"{options.experts} per layer, {options.active} for each token, of {options.hidden} hidden units"
        + (f"; {options.shared} more for every token" if options.shared else ""),
        "Places": places,
        "Training": f"{options.steps:,} steps of {options.batch * options.context:,} bytes",
        "Objective": AIMS[options.objective],
    }
    return Section("What was asked", text, terms=terms | {one.router: WHAT[one.router] for one in findings.judged})


def _comparison(findings: Findings) -> Section:
    judged = findings.judged
    best = min(judged, key=lambda one: one.scores[LOSS])
    balanced = [one for one in judged if math.isfinite(one.scores[HELD_VIOLATION])]
    text = f"On what was held out, “{best.router}” predicts best: {best.scores[LOSS]:.4f} nats per byte"
    others = [f"{one.router} {one.scores[LOSS] - best.scores[LOSS]:+.4f}" for one in judged if one is not best]
    text += f" ({', '.join(others)})." if others else "."
    if len(balanced) > 1:
        even = min(balanced, key=lambda one: one.scores[HELD_VIOLATION])
        text += f" “{even.router}” is the most even: MaxVio {even.scores[HELD_VIOLATION]:.3f}."
    names = [name for name in MEASURES if any(math.isfinite(one.scores[name]) for one in judged)]
    table: dict[str, Any] = {"measure": names}
    for one in judged:
        values = [one.scores[name] for name in names]
        table[one.router] = [f"{value:.4g}" if math.isfinite(value) else "–" for value in values]
    note = (
        "All are evaluated as they would be used. A price that was frozen after training decides, and no token's "
        "experts depend on a later token; there are places for what the tokens need and no more, and who finds none is "
        "dropped. “Price moving” lets the price follow from there what earlier positions of a batch ask for. "
        "This is one seed: differences of a few thousandths of a nat are noise. catallax.experts.compare repeats it "
        "over seeds."
    )
    return Section("How the routers compare", text, table, note=note, file="answer/comparison.csv")


def _training(findings: Findings) -> Section:
    steps, loss = findings.first.curve["step"], findings.first.curve["loss"]
    rows = sorted({int(k) - 1 for k in np.rint(np.geomspace(1, steps.size, MOST))}) if steps.size else []
    table: dict[str, Any] = {"step": [int(steps[k]) for k in rows]}
    for one in findings.judged:
        loss = one.curve["loss"]
        table[one.router] = [float(loss[k]) for k in rows]
    text = (
        "Loss of the batches that are learnt from, before each step, mean over the steps since the row above; and the "
        "largest violation of balance among these steps and the layers. MaxVio is what tokens ask for, before places "
        "are enforced: (largest load − mean load) / mean load."
    )
    return Section("Learning", text, table, findings.figures.get("learning"), file="history.jsonl")


def _domains(findings: Findings) -> Section:
    names = list(findings.first.domains)
    table: dict[str, Any] = {"domain": names}
    for one in findings.judged:
        table[one.router] = [one.domains[name] for name in names]
    return Section("Loss by domain", "Nats per byte on the held-out part of each text.", table)


def _better_off(findings: Findings) -> list[Section]:
    first, rows = findings.first, []
    for other in findings.judged[1:]:
        parties = [("domains", {name: first.domains[name] - loss for name, loss in other.domains.items()}, -1)]
        for account in first.accounts if other.accounts else ():
            less = np.ndenumerate(first.accounts[account] - other.accounts[account])
            experts = {f"{layer + 1}.{expert}": value for (layer, expert), value in less}
            parties.append((f"experts, {account}", experts, 1))
        for who, changes, sign in parties:
            rows.append((other.router, who, *(_named(changes, side * sign) for side in (1, -1))))
    if not rows:
        return []
    text = (
        f"“{first.router}” beside each other router: which domains of the held-out text are predicted better and which "
        "worse; and which experts are worth more to the tokens that they serve (gain: what a token's loss falls by "
        "the expert alone) and earn more (revenue: at the posted price that earns most), and which less. All models "
        "begin alike, so that an expert, named by its layer and number, is the same one under every router."
    )
    harmed = {beside for beside, _, _, worse in rows if worse}
    whole = [other.router for other in findings.judged[1:] if other.router not in harmed]
    text += (
        f" Nobody is worse off, a Pareto improvement, than under: {', '.join(whole)}."
        if whole
        else " Beside each of them somebody is worse off: a Pareto improvement on none."
    )
    columns = map(list, zip(*rows, strict=True))
    table: dict[str, Any] = dict(zip(("beside", "who", "better off", "worse off"), columns, strict=True))
    note = "One seed: whoever gains or loses little may do the opposite under another."
    return [Section("Who is better off", text, table, note=note, file="answer/accounts.csv")]


def _named(changes: Mapping[str, float], sign: int) -> str:
    """Name those whose change has a sign, and say how many of all they are."""
    names = [name for name, change in changes.items() if change * sign > 0]
    return f"{len(names)} of {len(changes)}: {', '.join(names)}" if names else ""


def _served(findings: Findings) -> list[Section]:
    one = findings.first
    if not one.served:
        return []
    text = (
        f"How the tokens of each kind are spread over the experts of the last layer, under “{one.router}”. An expert "
        "that serves one kind far more than another has specialised. Experts stand in the order of the kind that they "
        "serve most, and kinds are those of the byte that is read."
    )
    table = {
        "router": [other.router for other in findings.judged if other.served],
        BYTE_BITS: [other.scores[BYTE_BITS] for other in findings.judged if other.served],
        DOMAIN_BITS: [other.scores[DOMAIN_BITS] for other in findings.judged if other.served],
    }
    note = "Mutual information of an expert and the kind of a token that it serves, in bits, mean over layers."
    return [Section("Who serves whom", text, table, findings.figures.get("served"), note, file="answer/served.csv")]


def _prices(findings: Findings) -> list[Section]:
    found = []
    if "loads" in findings.figures:
        text = "What tokens ask of each expert of the last layer, over the mean; one row is one expert."
        found.append(Section("Loads over time", text, figure=findings.figures["loads"], file="history.jsonl"))
    if "prices" in findings.figures:
        text = (
            f"Each line is the price of one expert under “{findings.first.router}”, in units of affinity, beside the "
            "mean of its layer: only differences decide where a token goes. An expert that many tokens want is dear."
        )
        found.append(Section("Prices over time", text, figure=findings.figures["prices"], file="answer/prices.csv"))
    return found


def _texts(findings: Findings) -> list[Section]:
    terms = {one.router: " / ".join(one.text.split("\n")) for one in findings.judged if one.text}
    if not terms:
        return []
    text = (
        "What each model writes after the first words of the text that was held out. A model this small spells "
        "words and keeps a form; it has no sense to make. A stroke ends a line; the "
        "folder answer has the texts as they were written."
    )
    return [Section("What they write", text, terms=terms)]


def _words() -> Section:
    terms = {
        "Nats per byte": "Mean of −log of the probability given to the byte that came; divided by log 2 it is bits.",
        "MaxVio": "(largest load − mean load) / mean load of a layer's experts; 0 is perfect balance. For training, "
        "the largest of all steps and layers, from the first step on; for validation, of all its tokens together.",
        "Dropped": "The share of places asked for that did not exist, at so many places per place needed, over the "
        "sequences of a validation batch.",
        "Price moving": "The price follows what earlier positions of the sequences of a validation batch asked for, "
        "instead of staying what it was after training.",
        "Dead experts": "Experts asked for by less than 1% of the mean load, of all layers.",
        "Evenness": "Entropy of the experts' shares of the load over that of equal shares.",
        "Bits about": "How much the expert that serves a token tells of the token's byte class or of its domain.",
        "Affinity": "What a token thinks an expert is worth to it, by the router's own weights.",
    }
    return Section("What the words mean", terms=terms)
