"""Traders with inventories and one price: the market as a mean-field game."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from ...errors import InputError
from ..problem import AbstractGame, Listed


class PriceFormation(AbstractGame):
    """Traders who store a good, place orders, and trade at the one price that clears their orders.

    A state is an inventory h and the order b that is on its way: h·A + number of b. At time t all orders are
    executed: the outside world supplies (p − level_t)/slope units per trader at price p, so that the market clears at
    p_t = level_t + slope·E[b]. A trader pays p_t·b + friction·b²/2 + storage·(h − target)²/2, h with that order
    delivered, then places its next order, cut to what its store can hold or give. What
    is stored at the end is worth `worth`·h. Rewards fall with E[b] times b, so the game is monotone.

    Args:
        levels: level_t, the price at which the outside supplies nothing; shape (T,). By default it has a period of 24.
        horizon: T, if there are no levels; 48 by default.
        capacity: The largest inventory.
        largest: The largest order to buy or to sell, in units.
        slope: By how much the price rises when every trader orders a unit.
        friction, storage: The costs above.
        target: The inventory that is free of cost.
        worth: What a unit is worth at the end.
        begin: The first density of inventories, shape (capacity + 1,); even by default.

    Raises:
        InputError: if a store cannot hold the largest order, or the density does not fit the capacity.

    Reference:
        Gomes & Saúde (2021), A mean-field game approach to price formation; here with a discrete inventory and an
        elastic outside supply.
    """

    levels: Float[Array, " T"]
    slope: float | Array
    friction: float | Array
    storage: float | Array
    target: float | Array
    worth: float | Array
    begin: Float[Array, " H"]
    capacity: int = eqx.field(static=True)
    largest: int = eqx.field(static=True)

    def __init__(
        self,
        levels: ArrayLike | None = None,
        *,
        horizon: int | None = None,
        capacity: int = 8,
        largest: int = 2,
        slope: float | Array = 0.5,
        friction: float | Array = 0.1,
        storage: float | Array = 0.01,
        target: float | Array = 4.0,
        worth: float | Array = 1.0,
        begin: ArrayLike | None = None,
    ):
        if not 1 <= largest <= capacity:
            raise InputError(f"orders of up to {largest} units do not fit a store of {capacity}")
        even = np.full(capacity + 1, 1 / (capacity + 1))
        density = even if begin is None else np.asarray(begin, float)
        if density.shape != even.shape:
            raise InputError(f"the first density has {density.size} entries; inventories 0 to {capacity} need one each")
        if levels is not None and horizon not in (None, np.size(levels)):
            raise InputError(f"the horizon is {horizon}, and there are {np.size(levels)} levels of the price")
        # Dear at noon and cheap at midnight.
        daily = 1 - 0.5 * np.cos(2 * np.pi * np.arange(48 if horizon is None else horizon) / 24)
        self.levels = jnp.asarray(np.asarray(daily if levels is None else levels, float))
        self.slope, self.friction, self.storage = slope, friction, storage
        self.target, self.worth = target, worth
        self.begin = jnp.asarray(density, float)
        self.capacity, self.largest = capacity, largest

    @property
    def states(self) -> int:
        """S = (capacity + 1)·A."""
        return (self.capacity + 1) * self.actions

    @property
    def actions(self) -> int:
        """A: orders from −largest to largest."""
        return 2 * self.largest + 1

    @property
    def horizon(self) -> int:
        """T, one decision per level."""
        return self.levels.size

    def start(self):
        """Return the first density: inventories as given, and no order on its way."""
        nothing = jnp.zeros((self.capacity + 1, self.actions), self.begin.dtype)
        return nothing.at[:, self.largest].set(self.begin).reshape(-1)

    def moves(self, time, density):
        del time
        stock, _ = self._parts()
        wanted = np.arange(-self.largest, self.largest + 1)
        after = np.clip(stock[:, None] + wanted[None, :], 0, self.capacity)
        order = after - stock[:, None]
        targets = (after * self.actions + order + self.largest).astype(np.int32)
        return Listed(jnp.asarray(targets[:, :, None]), jnp.ones((*targets.shape, 1), density.dtype))

    def price(self, time: Array, density: Float[Array, " S"]) -> Float[Array, ""]:
        """Return the price at a time: the one that clears the orders of the crowd."""
        dtype = density.dtype
        orders = jnp.asarray(self._parts()[1], dtype)
        return self.levels.astype(dtype)[time] + jnp.asarray(self.slope, dtype) * (density @ orders)

    def reward(self, time, density, kind):
        del kind
        dtype = density.dtype
        stock, orders = (jnp.asarray(part, dtype) for part in self._parts())
        friction, storage = jnp.asarray(self.friction, dtype), jnp.asarray(self.storage, dtype)
        paid = self.price(time, density) * orders + 0.5 * friction * orders**2
        kept = 0.5 * storage * (stock - jnp.asarray(self.target, dtype)) ** 2
        return jnp.broadcast_to(-(paid + kept)[:, None], (self.states, self.actions))

    def final(self, density, kind):
        """Return what the store is worth at the end: an order still on its way is paid at the last level."""
        del kind
        dtype = density.dtype
        stock, orders = (jnp.asarray(part, dtype) for part in self._parts())
        price = self.levels.astype(dtype)[-1] + jnp.asarray(self.slope, dtype) * (density @ orders)
        friction = 0.5 * jnp.asarray(self.friction, dtype) * orders**2
        return jnp.asarray(self.worth, dtype) * stock - price * orders - friction

    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return each state's inventory, and its order on the way."""
        number = np.arange(self.states)
        return number // self.actions, number % self.actions - self.largest
