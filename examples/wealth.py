"""Write your own system: money that changes hands at random.

In every round each agent puts a random part of its purse into a pot and draws a claim on it. It sees nobody
else: only what a unit of claim is worth. Nobody is cleverer than anybody, and yet most end up with little.
"""

import jax
import jax.numpy as jnp

from catallax import AbstractSystem, State, Sum, run


class Exchange(AbstractSystem):
    def respond(self, agent, signal, key):  # one agent: its own state and the signal
        keep, claim = jax.random.uniform(key), jax.random.normal(jax.random.fold_in(key, 1)) ** 2
        purse = agent["money"] + agent["claim"] * signal["worth"]
        money = purse * jnp.sin(jnp.pi / 2 * keep) ** 2
        return {"money": money, "claim": claim}, {"pot": Sum(purse - money), "claims": Sum(claim)}

    def propagate(self, signal, total):  # the law of motion: sees only the total
        return {"worth": total["pot"] / total["claims"]}


n = 10_000
start = State({"money": jnp.full(n, 100.0), "claim": jnp.zeros(n)}, {"worth": jnp.zeros(())})
final = run(Exchange(), start, 500, key=jax.random.key(0)).state

wealth = jnp.sort(final.agents["money"] + final.agents["claim"] * final.signal["worth"])
print(f"money in all: {wealth.sum():,.0f}")
print(f"the poorer half owns {wealth[: n // 2].sum() / wealth.sum():.0%}")
print(f"the richest tenth owns {wealth[-n // 10 :].sum() / wealth.sum():.0%}")
print(f"standard deviation over mean: {wealth.std() / wealth.mean():.2f} (1 under the exponential law)")
