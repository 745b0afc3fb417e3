"""The compiled loop of `balance`: all its sweeps, as one operation of XLA on the CPU. Needs numba.

It is the law of `balance`, number for number but for rounding. Two economies on the way: demand falls as the price
rises, so that of seven trial prices three are counted; and an expert's tokens stay in the nearest cache from trial to
trial. What bounds it is counting, a comparison for each token and trial price.
"""

# pyright: reportCallIssue=false
# See `native`: an intrinsic is called without its first parameter.

import numpy as np
from numba import njit
from numba.np.numpy_support import carray

from ..native import extent, greater, is_query, lesser, numbers, pointer
from .balance import BEYOND, LEAST, MEMORY, PASSES, RIDGE
from .clear import TRIALS

U, WHOLE = np.uint64, np.int32(0)
WIDE = MEMORY + 1
LINE = U(16)
MIDDLE = (TRIALS + 1) // 2
# Called, a loop over a row takes longer.
inlined = njit(cache=True, error_model="numpy", forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)


@inlined
def turn(affinity, tokens, experts, across):
    """Write the table with each expert's tokens next to one another, a cache line of each at a time."""
    for first in range(U(0), tokens, LINE):
        for e in range(experts):
            for n in range(first, min(first + LINE, tokens)):
                across[e * tokens + n] = affinity[n * experts + e]


@inlined
def _extremes(across, tokens, experts, room):
    """Return the least and the greatest affinity; token by token at first, since one number at a time is slow."""
    for n in range(tokens):
        room[n] = room[tokens + n] = across[n]
    here, there = U(0), tokens + tokens
    for e in range(U(1), experts):
        first = e * tokens
        for n in range(tokens):
            x = across[first + n]
            room[there + n] = lesser(x, room[here + n])
            room[there + tokens + n] = greater(x, room[here + tokens + n])
        here, there = there, here
    least, most = room[here], room[here + tokens]
    for n in range(tokens):
        least, most = lesser(room[here + n], least), greater(room[here + tokens + n], most)
    return least, most


@inlined
def _pair(across, first, second, price, other, best, here, there, tokens):
    """Take two experts' surpluses in among the three highest of each token."""
    middle, last = tokens, tokens + tokens
    for n in range(tokens):
        x, y = across[first + n] - price, across[second + n] - other
        a, b, c = best[here + n], best[here + middle + n], best[here + last + n]
        x, y = greater(x, y), lesser(x, y)
        # The lesser of the two comes third at most, unless it is greater than the second of all others.
        d = lesser(x, a)
        e, f = greater(d, b), lesser(d, b)
        best[there + n], best[there + middle + n] = greater(x, a), greater(e, y)
        best[there + last + n] = greater(greater(f, c), lesser(e, y))


@inlined
def _one(source, first, price, best, here, there, tokens, rest, to):
    """Take an expert's surpluses in among three of the highest of each token; write what is left of them."""
    middle, last = tokens, tokens + tokens
    for n in range(tokens):
        x = source[first + n] - price
        a, b, c = best[here + n], best[here + middle + n], best[here + last + n]
        y = lesser(x, a)
        z = lesser(y, b)
        best[there + n], best[there + middle + n] = greater(x, a), greater(y, b)
        best[there + last + n], rest[to + n] = greater(z, c), lesser(z, c)


@inlined
def highest(across, price, tokens, experts, best, rows, rest, zero, far):
    """Write each token's highest surpluses, greatest row first; return where. Rows come in threes."""
    here, there, at, to, e = U(0), rows * tokens, U(0), tokens, U(0)
    for j in range(rows * tokens):
        best[j] = -far
    while e < experts:
        if rows == U(3) and e + U(1) < experts:
            after = e + U(1)
            _pair(across, e * tokens, after * tokens, price[e], price[after], best, here, there, tokens)
            e = after + U(1)
        else:
            _one(across, e * tokens, price[e], best, here, there, tokens, rest, to)
            e += U(1)
            for r in range(U(3), rows, U(3)):
                at, to = to, at
                _one(rest, at, zero, best, here + r * tokens, there + r * tokens, tokens, rest, to)
        here, there = there, here
    return here


@inlined
def write_reserves(best, here, tokens, active, reserve, half):
    """Write the middle between each token's k-th and (k+1)-th highest surplus."""
    after = here + active * tokens
    last = after - tokens
    for n in range(tokens):
        reserve[n] = best[last + n] * half + best[after + n] * half


@inlined
def exceed(across, first, tokens, reserve, worth):
    """Write what an expert is worth to each token beyond its reserve."""
    for n in range(tokens):
        worth[first + n] = across[first + n] - reserve[n]


@inlined
def count_takers(worth, first, tokens, price):
    """Count the tokens to which an expert is worth more than a price."""
    count = WHOLE
    for n in range(tokens):
        count = np.int32(count + (worth[first + n] > price))
    return count


@inlined
def narrow(worth, first, tokens, low, high, known, capacity, slack, floor, parts):
    """Return the part of a bracket between the dearest trial price that too many take and the next one.

    Args:
        known: How many take the trial price in the middle, or a negative number.
        capacity, slack, floor: Places, and so many idle tokens who take one where the price is below the floor.
    """
    # The low end does not fit, the high end does.
    near, far, width = 0, TRIALS + 1, high - low
    while far - near > 1:
        trial = (near + far) // 2
        price = low + width * parts[trial]
        count = known if known >= 0 else count_takers(worth, first, tokens, price)
        known = np.int32(-1)
        if count + (slack if price < floor else 0) <= capacity:
            far = trial
        else:
            near = trial
    below = low if near == 0 else low + width * parts[near]
    return below, high if far == TRIALS + 1 else low + width * parts[far]


@inlined
def _solve(table):
    """Solve a few equations by elimination, their matrix positive definite; the last column becomes the answer."""
    for i in range(MEMORY):
        for j in range(i + 1, MEMORY):
            part = table[j * WIDE + i] / table[i * WIDE + i]
            for k in range(i, WIDE):
                table[j * WIDE + k] -= part * table[i * WIDE + k]
    for back in range(MEMORY):
        i = MEMORY - 1 - back
        for j in range(i + 1, MEMORY):
            table[i * WIDE + MEMORY] -= table[i * WIDE + j] * table[j * WIDE + MEMORY]
        table[i * WIDE + MEMORY] /= table[i * WIDE + i]


@inlined
def _extrapolate(change, moved, turned, experts, table, zero, beyond, ridge, tiny):
    """Turn the change into the step to where, as the last tell, a sweep would change nothing, and a little beyond."""
    trace = zero
    for i in range(MEMORY):
        for j in range(WIDE):
            product = zero
            for e in range(experts):
                product += turned[i * experts + e] * (turned[j * experts + e] if j < MEMORY else change[e])
            table[i * WIDE + j] = product
        trace += table[i * WIDE + i]
    for i in range(MEMORY):
        table[i * WIDE + i] += ridge * trace + tiny
    _solve(table)
    for e in range(experts):
        rest, gone = change[e], zero
        for i in range(MEMORY):
            rest -= table[i * WIDE + MEMORY] * turned[i * experts + e]
            gone += table[i * WIDE + MEMORY] * moved[i * experts + e]
        change[e] = beyond * rest - gone


@inlined
def _remember(now, before, at, changes, experts, swept):
    """Put the change since the sweep before first among the last ones."""
    for e in range(experts):
        for i in range(MEMORY - 1, 0, -1):
            changes[i * experts + e] = changes[(i - 1) * experts + e]
        if swept > 0:
            changes[e] = now[e] - before[at + e]
        before[at + e] = now[e]


@inlined
def _floor(price, experts, half):
    """Return the middle between the least price and the next: the reserve of idle tokens."""
    first, second = min(price[0], price[1]), max(price[0], price[1])
    for e in range(U(2), experts):
        second = min(second, max(first, price[e]))
        first = min(first, price[e])
    return first * half + second * half


@inlined
def _least(price, experts):
    least = price[0]
    for e in range(experts):
        least = min(least, price[e])
    return least


def balance(dtype):
    """Return the operation of `balance`, for fewer active experts than there are."""
    like = dtype(0)
    zero, half, two, far, beyond, ridge = map(dtype, (0, 0.5, 2, np.inf, BEYOND, RIDGE))
    tiny, finest, quarter = np.finfo(dtype).tiny, dtype(LEAST), dtype(0.25)
    parts = tuple(dtype(part / (TRIALS + 1)) for part in range(TRIALS + 2))

    def operation(frame):
        if is_query(frame):
            return 0
        tokens, experts, rows = U(extent(frame, 0, 0)), U(extent(frame, 0, 1)), U(extent(frame, 2, 1, True))
        affinity = carray(numbers(pointer(frame, 0), like), (tokens * experts,))
        start = carray(numbers(pointer(frame, 1), like), (experts,))
        rule = carray(numbers(pointer(frame, 2), WHOLE), (6,))
        price = carray(numbers(pointer(frame, 0, True), like), (experts,))
        across = carray(numbers(pointer(frame, 1, True), like), (experts * tokens,))
        best = carray(numbers(pointer(frame, 2, True), like), (U(2) * rows * tokens,))
        row = carray(numbers(pointer(frame, 3, True), like), (U(2) * tokens,))
        reserve = carray(numbers(pointer(frame, 4, True), like), (tokens,))
        worth = carray(numbers(pointer(frame, 5, True), like), (experts * tokens,))
        takers = carray(numbers(pointer(frame, 6, True), WHOLE), (experts,))
        change = carray(numbers(pointer(frame, 7, True), like), (experts,))
        # The price and the change one sweep before, and how both changed from sweep to sweep, newest first.
        before = carray(numbers(pointer(frame, 8, True), like), (U(2) * experts,))
        moved = carray(numbers(pointer(frame, 9, True), like), (U(MEMORY) * experts,))
        turned = carray(numbers(pointer(frame, 10, True), like), (U(MEMORY) * experts,))
        table = carray(numbers(pointer(frame, 11, True), like), (MEMORY * WIDE,))
        active, capacity, slack, enough = U(rule[0]), rule[1], rule[2], rule[3]
        sweeps, haste = rule[4], rule[5]
        turn(affinity, tokens, experts, across)
        low, high = _extremes(across, tokens, experts, best)
        span, narrowest = (high - low) * quarter, (high - low) * finest
        least = _least(start, experts)
        for e in range(experts):
            price[e] = start[e] - least
        for j in range(U(MEMORY) * experts):
            moved[j] = turned[j] = zero
        swept = 0
        while True:
            for e in range(experts):
                low, high = price[e] - span, price[e] + span
                price[e] = low + (high - low) * parts[MIDDLE]
            here = highest(across, price, tokens, experts, best, rows, row, zero, far)
            write_reserves(best, here, tokens, active, reserve, half)
            most = 0
            for e in range(experts):
                exceed(across, e * tokens, tokens, reserve, worth)
                takers[e] = count_takers(worth, e * tokens, tokens, price[e])
                most = max(most, takers[e])
            if swept >= sweeps or most <= enough:
                break
            floor, mean = _floor(price, experts, half), zero
            for e in range(experts):
                low, high, known = price[e] - span, price[e] + span, takers[e]
                for _ in range(PASSES):
                    low, high = narrow(worth, e * tokens, tokens, low, high, known, capacity, slack, floor, parts)
                    known = np.int32(-1)
                change[e] = high - price[e]
                mean += change[e]
            mean /= dtype(experts)
            for e in range(experts):
                change[e] -= mean
            _remember(price, before, U(0), moved, experts, swept)
            _remember(change, before, experts, turned, experts, swept)
            if swept < haste:
                _extrapolate(change, moved, turned, experts, table, zero, beyond, ridge, tiny)
            widest = zero
            for e in range(experts):
                price[e] += change[e]
                widest = max(widest, abs(change[e]))
            least = _least(price, experts)
            for e in range(experts):
                price[e] -= least
            span = max(two * widest, narrowest)
            swept += 1
        return 0

    return operation
