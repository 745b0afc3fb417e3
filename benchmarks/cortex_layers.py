"""Layers that compete beside layers that do not, at equal size and training, on handwritten digits.

    python -m benchmarks.cortex_layers [--seeds 5] [--epochs 30] [--units 128]

Two networks, one with the layer as its hidden layer and one with the layer inside a residual MLP block, and in each
the same number of units: `Linear` and ReLU; rows of unit length without competition; competition; and the first and the
last once more with an L1 penalty on the activity, chosen on a seed that is not reported so that about as many units are
active as asked for. The digits are those that scikit-learn ships (UCI, Alpaydin & Kaynak 1998), 1,797 images of 8×8.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from catallax.cortex.layer import CompetitiveLayer
from catallax.cortex.measure import redundancy, specialisation

TRAINED, BATCH, RATE, CLASSES, WIDTH = 1200, 60, 2e-3, 10, 48
PENALTIES = (1e-5, 1.0)
HALVINGS = 7
KINDS = ("ReLU", "unit rows", "competition", "ReLU + L1", "competition + L1")
TRIAL_SEED = 1000
NOISE = (0.2, 0.4)
REMOVED = (0.25, 0.5)


class Plain(eqx.Module):
    """`Linear` and ReLU, under the names that `CompetitiveLayer` has."""

    weight: jax.Array
    bias: jax.Array

    def __init__(self, inputs: int, units: int, *, key: jax.Array):
        linear = eqx.nn.Linear(inputs, units, key=key)
        assert linear.bias is not None
        self.weight, self.bias = linear.weight, linear.bias

    @property
    def fields(self) -> jax.Array:
        """The rows of the weight; measures take their directions."""
        return self.weight

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return max(0, W x + b)."""
        return jax.nn.relu(self.weight @ x + self.bias)


class Network(eqx.Module):
    """The layer between the image and the classes, either directly or inside a residual block.

    Args:
        embed: Image to stream; None without a block.
        layer: The layer under comparison.
        back: Activity to the stream, or to the classes without a block.
        out: Stream to classes; None without a block.
    """

    embed: eqx.nn.Linear | None
    layer: Any
    back: eqx.nn.Linear
    out: eqx.nn.Linear | None

    def __init__(self, kind: str, block: bool, inputs: int, units: int, strength: float, key: jax.Array):
        first, second, third, fourth = jax.random.split(key, 4)
        self.embed = eqx.nn.Linear(inputs, WIDTH, key=first) if block else None
        width = WIDTH if block else inputs
        self.layer = (
            Plain(width, units, key=second)
            if kind.startswith("ReLU")
            else CompetitiveLayer(
                width, units, strength=strength if kind.startswith("competition") else 0.0, key=second
            )
        )
        self.back = eqx.nn.Linear(units, WIDTH if block else CLASSES, key=third)
        self.out = eqx.nn.Linear(WIDTH, CLASSES, key=fourth) if block else None

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the classes' scores and the layer's activity."""
        if self.embed is None or self.out is None:
            activity = self.layer(x)
            return self.back(activity), activity
        stream = self.embed(x)
        activity = self.layer(_normed(stream))
        return self.out(_normed(stream + self.back(activity))), activity


def _normed(x: jax.Array) -> jax.Array:
    x = x - jnp.mean(x)
    return x * jax.lax.rsqrt(jnp.mean(x**2) + 1e-5)


def loss(network: Network, x: jax.Array, y: jax.Array, penalty: jax.Array) -> jax.Array:
    """Return the mean cross entropy, and the penalty on a sample's activity, all units together."""
    scores, activity = jax.vmap(network)(x)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), y[:, None], axis=1)
    return -jnp.mean(chosen) + penalty * jnp.mean(jnp.sum(jnp.abs(activity), axis=1))


@eqx.filter_jit
def epoch(network: Network, moments: Any, x: jax.Array, y: jax.Array, order: jax.Array, penalty: jax.Array) -> Any:
    """Take Adam (Kingma & Ba 2015) through the batches of one epoch, `order` of shape (batches, batch)."""
    import optax

    rule = optax.adam(RATE)
    dynamic, static = eqx.partition(network, eqx.is_array)

    def step(carry, rows):
        dynamic, moments = carry
        slope = eqx.filter_grad(loss)(eqx.combine(dynamic, static), x[rows], y[rows], penalty)
        change, moments = rule.update(eqx.filter(slope, eqx.is_array), moments)
        return (optax.apply_updates(dynamic, change), moments), None

    (dynamic, moments), _ = jax.lax.scan(step, (dynamic, moments), order)
    return eqx.combine(dynamic, static), moments


def trained(kind: str, block: bool, data: dict, arguments: Any, seed: int, penalty: float) -> tuple[Network, float]:
    """Return the trained network and the seconds that training took, compilation included."""
    import optax

    started = time.perf_counter()
    x, y = data["train"]
    network = Network(kind, block, x.shape[1], arguments.units, arguments.strength, jax.random.key(seed))
    moments = optax.adam(RATE).init(eqx.filter(network, eqx.is_array))
    draw = np.random.default_rng(seed)
    for _ in range(arguments.epochs):
        order = jnp.asarray(draw.permutation(len(x)).reshape(-1, BATCH))
        network, moments = epoch(network, moments, x, y, order, jnp.asarray(penalty, jnp.float32))
    jax.block_until_ready(network.layer.bias)
    return network, time.perf_counter() - started


@eqx.filter_jit
def answers(network: Network, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the class of every image, and the activity."""
    scores, activity = jax.vmap(network)(x)
    return jnp.argmax(scores, axis=1), activity


def without(network: Network, gone: np.ndarray) -> Network:
    """Return the network after the death of some units: nobody hears them, and they inhibit nobody."""
    kept = jnp.asarray(np.setdiff1d(np.arange(len(network.layer.bias)), gone))
    parts = lambda net: (net.layer.weight, net.layer.bias, net.back.weight)  # noqa: E731
    weight, bias, back = parts(network)
    return eqx.tree_at(parts, network, (weight[kept], bias[kept], back[:, kept]))


def selectivity(activity: np.ndarray, y: np.ndarray) -> float:
    """Return the mean over live units of (best class − mean of the others) / (their sum), by mean activity.

    Reference:
        Morcos, Barrett, Rabinowitz & Botvinick (2018), On the importance of single directions, section 2.2.
    """
    means = np.stack([activity[y == kind].mean(axis=0) for kind in range(CLASSES)])
    best = means.max(axis=0)
    others = (means.sum(axis=0) - best) / (CLASSES - 1)
    live = best > 0
    return float(np.mean((best[live] - others[live]) / (best[live] + others[live])))


def measured(network: Network, data: dict, seed: int) -> dict[str, float]:
    """Return what the table shows of one network."""
    x, y = data["test"]
    draw, truth = np.random.default_rng(seed), np.asarray(y)
    correct = lambda net, x: float(np.mean(np.asarray(answers(net, x)[0]) == truth))  # noqa: E731
    activity = np.asarray(answers(network, x)[1])
    seen = np.asarray(answers(network, data["train"][0])[1])
    fields, size = np.asarray(network.layer.fields), activity.shape[1]
    row = {
        "accuracy": correct(network, x),
        "active": float(np.mean(activity > 0)),
        "redundancy": redundancy(activity, fields),
        "specialisation": specialisation(activity, truth),
        "selectivity": selectivity(activity, truth),
        "dead": float(np.mean(np.all(seen == 0, axis=0))),
    }
    for size_of_noise in NOISE:
        noise = jnp.asarray(size_of_noise * draw.standard_normal(x.shape), x.dtype)
        row[f"noise {size_of_noise}"] = correct(network, x + noise)
    for share in REMOVED:
        draws = [draw.choice(size, round(share * size), replace=False) for _ in range(5)]
        row[f"without {share:.0%}"] = float(np.mean([correct(without(network, gone), x) for gone in draws]))
    return row


def digits(seed: int) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Return the digits, pixels in [0, 1] less the mean training image, split at random."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        sys.exit("error: this comparison takes its digits from scikit-learn, which is not installed: "
                 "pip install scikit-learn")  # fmt: skip
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    x = x[order] / 16 - np.mean(x[order[:TRAINED]] / 16, axis=0)
    x, y = jnp.asarray(x, jnp.float32), jnp.asarray(y[order], jnp.int32)
    return {"train": (x[:TRAINED], y[:TRAINED]), "test": (x[TRAINED:], y[TRAINED:])}


def penalty_for(kind: str, block: bool, arguments: Any) -> float:
    """Return the penalty at which about as many units are active as asked for, by halving its logarithm's range."""
    data, (low, high) = digits(TRIAL_SEED), PENALTIES
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        network, _ = trained(kind, block, data, arguments, TRIAL_SEED, middle)
        active = float(np.mean(np.asarray(answers(network, data["test"][0])[1]) > 0))
        low, high = (middle, high) if active > arguments.active else (low, middle)
    return float(np.sqrt(low * high))


def compare(block: bool, arguments: Any) -> dict[str, Any]:
    """Return the measures of every kind, mean and standard error over the seeds."""
    penalties, rows = {}, {}
    for kind in KINDS:
        penalties[kind] = penalty_for(kind, block, arguments) if kind.endswith("L1") else 0.0
        found = []
        for seed in range(arguments.seeds):
            data = digits(seed)
            network, seconds = trained(kind, block, data, arguments, seed, penalties[kind])
            found.append({**measured(network, data, seed), "seconds": seconds})
        rows[kind] = {
            name: (float(np.mean(values)), float(np.std(values, ddof=1) / np.sqrt(len(values))))
            for name, values in {name: [one[name] for one in found] for name in found[0]}.items()
        }
        print_row(kind, rows[kind])
    return {"network": "MLP block" if block else "hidden layer", "penalties": penalties, "rows": rows}


def print_row(kind: str, row: dict[str, tuple[float, float]]) -> None:
    """Print one line of the table, and its heading above the first."""
    if kind == "ReLU":
        print("| layer | " + " | ".join(row) + " |\n" + "|---" * (len(row) + 1) + "|")
    print(f"| {kind} | " + " | ".join(f"{mean:.3f} ± {error:.3f}" for mean, error in row.values()) + " |", flush=True)


def main(arguments: list[str]) -> int:
    """Measure both networks and print the tables; with `--json FILE`, write them too."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cortex_layers", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="how many seeds (at least 2)")
    parser.add_argument("--epochs", type=int, default=30, help="passes through the training images")
    parser.add_argument("--units", type=int, default=128, help="units of the layer")
    parser.add_argument("--strength", type=float, default=0.5, help="strength of competition")
    parser.add_argument("--active", type=float, default=0.2, help="share of active units to aim at with a penalty")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    chosen = parser.parse_args(arguments)
    found = []
    for block in (False, True):
        print("MLP block" if block else "hidden layer")
        found.append(compare(block, chosen))
        print(f"penalties: {found[-1]['penalties']}\n")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
