"""Who gets which table at a market of three stalls and four buyers, and what a raise for one of them does."""

import numpy as np

from catallax.market import Market, price_sensitivities, solve

market = Market(
    [[5, 2, 0], [4, 4, 1], [0, 3, 3], [1, 0, 6]],
    budgets=[30, 20, 20, 30],
    supply=[10, 10, 5],
    buyers=("Ada", "Ben", "Cleo", "Dan"),
    goods=("bread", "cheese", "honey"),
)
answer = solve(market, tol=1e-9)

print(f"{answer.status} after {answer.rounds} rounds")
for claim in answer.certificates:
    print(f"  {claim.name:<9} {claim.value:.0e}  {'holds' if claim.holds else 'does not hold'}")
for good, price in zip(market.goods, answer.prices, strict=True):
    print(f"{good:<7} {price:6.3f}")
for buyer, bundle in zip(market.buyers, answer.allocation, strict=True):
    bought = ", ".join(f"{x:.2f} {good}" for x, good in zip(bundle, market.goods, strict=True) if x > 1e-6)
    print(f"{buyer:<5} {bought}")

moves = price_sensitivities(answer, {"Ada": np.array([0])})["Ada"]
for good, move in zip(market.goods, moves, strict=True):
    print(f"one per cent more money for Ada moves the price of {good} by {move:+.2f} per cent")
