"""Eight experts on a market learn a task of four kinds of tokens, beside the same experts without prices.

Each kind of token asks for another linear map. Tokens of one kind are four times as many as those of any other: without
prices its experts are overrun, places run out and tokens go unserved. With prices every expert is asked for about as
often as it has places, from the first step on.

`catallax run experts` does this with a language model, and with the routers of others.
"""

import equinox as eqx
import jax
import jax.numpy as jnp

from catallax.experts import MarketMoE

WIDTH, TOKENS, KINDS, STEPS = 16, 256, 4, 100

keys = jax.random.split(jax.random.key(0), 3)
centres = 2 * jax.random.normal(keys[0], (KINDS, WIDTH))
maps = jax.random.normal(keys[1], (KINDS, WIDTH, WIDTH)) / WIDTH**0.5


def draw(key):
    """Draw tokens of the four kinds, and what should become of each."""
    first, second = jax.random.split(key)
    kind = jax.random.choice(first, KINDS, (TOKENS,), p=jnp.array([4, 1, 1, 1]) / 7)
    noise = jax.random.normal(second, (TOKENS, WIDTH))
    return centres[kind] + noise, jnp.einsum("td,tde->te", noise, maps[kind])


def error(layer, prices, key):
    """Return the mean squared error of a batch, and the prices and logs beside it."""
    tokens, wanted = draw(key)
    answers, prices, logs = layer(tokens, prices, train=True)
    return jnp.mean((answers - wanted) ** 2) + logs.loss, (prices, logs)


@eqx.filter_jit
def step(layer, prices, key):
    """Go one step down the slope."""
    (loss, (prices, logs)), slope = eqx.filter_value_and_grad(error, has_aux=True)(layer, prices, key)
    return eqx.apply_updates(layer, jax.tree.map(lambda leaf: -0.1 * leaf, slope)), prices, loss, logs


for router in ("market", "none"):
    layer = MarketMoE(WIDTH, 32, experts=8, active=1, router=router, key=keys[2])
    prices, worst, unserved = layer.start(), 0.0, 0.0
    for number in range(STEPS):
        layer, prices, loss, logs = step(layer, prices, jax.random.key(number))
        worst, unserved = max(worst, float(logs.max_violation)), unserved + float(logs.unserved) / STEPS
    print(f"{router}: error {float(loss):.3f}, largest MaxVio {worst:.2f}, {unserved:.0%} of tokens unserved")
    print("  prices", *(f"{price:.2f}" for price in prices.price.tolist()))
