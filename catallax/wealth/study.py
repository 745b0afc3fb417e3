"""What `catallax run wealth` does: run, certify, and write who owns how much."""

import numpy as np

from ..core.run import Progress
from ..runs.store import RunContext
from ..study import Outcome, Section
from .certify import certify, gini
from .figures import draw_histogram, draw_lorenz
from .options import Options
from .problem import Economy
from .solve import begin, owned, solve

TEXT = """\
Everybody starts with the same money. In every round each agent puts a random part of it into a pot and
receives a random part of the pot. Nobody is better at it than anybody else, and yet wealth spreads until
it follows the exponential law: most own little, few own much, and Gini's coefficient is one half."""


def execute(options: Options, run: RunContext) -> Outcome:
    """Run the exchange; write tables and figures."""
    economy = Economy(options.agents, options.money)

    def watch(progress: Progress) -> None:
        rounds, spread = np.asarray(progress.recorded), np.asarray(progress.record)
        run.record(*({"round": int(r), "spread": float(s)} for r, s in zip(rounds, spread, strict=True)))
        run.checkpoint(progress.state)
        run.progress.update(round=int(progress.state.round), total=progress.last_round)

    state = run.restore(begin(economy))
    answer = solve(state, rounds=options.rounds, seed=run.seed, devices=run.devices, watch=watch)
    wealth = owned(answer.state)
    order = np.argsort(-wealth, kind="stable")
    table = {"agent": order + 1, "wealth": wealth[order]}
    run.write_table("wealth", table)
    histogram = run.write_figure("histogram", draw_histogram(wealth, economy.money))
    curve = run.write_figure("lorenz", draw_lorenz(wealth))
    names = ["Gini's coefficient", "standard deviation over mean", "share of the richest tenth"]
    richest = float(np.sum(table["wealth"][: max(1, economy.agents // 10)]) / np.sum(wealth))
    seen = [gini(wealth), float(np.std(wealth) / np.mean(wealth)), richest]
    law = [0.5, 1.0, (1 + np.log(10)) / 10]
    return Outcome(
        title="Who owns how much",
        status=str(answer.status),
        certificates=certify(economy, wealth),
        summary=[f"{n}: {s:.4f} (exponential law: {e:.4f})" for n, s, e in zip(names, seen, law, strict=True)],
        sections=[
            Section("Inequality", TEXT, {"": names, "seen": seen, "exponential law": law}),
            Section("Distribution", figure=histogram),
            Section("Lorenz curve", figure=curve),
            Section("The richest", table={n: c[:10] for n, c in table.items()}, file="answer/wealth.csv"),
        ],
    )
