"""When to leave for work: everyone would like to arrive at nine, and the road is full of those who do.

Each player waits at home or leaves; the way takes two steps on average, and costs more the fuller the road is. At
work too early costs a little, not at work after nine costs a lot. In equilibrium departures spread so that nobody
gains by another time: Vickrey's bottleneck (1969), Congestion theory and transport investment, as a mean-field game.

`catallax run meanfield meanfield.py` plays the same game, with pictures and an actual crowd.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from catallax.meanfield import AbstractGame, Listed, solve

HOME, ROAD, WORK = 0, 1, 2


class Commute(AbstractGame):
    """A morning of quarters of an hour; work begins at three quarters of it.

    Args:
        crowding: What it costs to share the road with everyone, per step.
        horizon: How many decisions.
    """

    crowding: float = 8.0
    horizon: int = eqx.field(static=True, default=16)
    states: int = eqx.field(static=True, default=3)
    actions: int = eqx.field(static=True, default=2)

    def start(self):
        return jnp.array([1.0, 0.0, 0.0])

    def moves(self, time, density):
        del time, density
        # What follows with either half of the chance: at home it is the player's choice, on the road it is not.
        waits, leaves = [HOME, HOME], [ROAD, ROAD]
        driving, there = [ROAD, WORK], [WORK, WORK]
        targets = jnp.array([[waits, leaves], [driving, driving], [there, there]])
        return Listed(targets, jnp.full(targets.shape, 0.5))

    def reward(self, time, density, kind):
        del kind
        late = time >= 3 * self.horizon // 4
        outside = jnp.where(late, -4.0, 0.0)
        early = jnp.where(late, 0.0, -0.5)
        paid = jnp.stack([outside, outside - 1 - self.crowding * density[ROAD], early])
        return jnp.broadcast_to(paid[:, None], (self.states, self.actions))


if __name__ == "__main__":
    game = Commute()
    answer = solve(game, tol=1e-4)
    print(f"{answer.status} after {answer.rounds} rounds; a morning is worth {answer.value[0]:.3f}")
    for claim in answer.certificates:
        print(f"  {claim.name:<14} {claim.value:.0e}  {'holds' if claim.holds else 'does not hold'}")
    print("time  at home  on the road  at work")
    for time, (home, road, work) in enumerate(answer.flow):
        print(f"{time:4}  {home:7.3f}  {road:11.3f}  {work:7.3f}  {'#' * round(60 * road)}")
    print(f"the road never holds more than {np.max(answer.flow[:, ROAD]):.0%} of the crowd")
