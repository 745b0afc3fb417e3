"""The compiled loops of `bands`: a pass back through time, and a pass forward. Needs numba.

Each is an operation of XLA (`native`), in single and in double precision. All arrays are flat. Rows that moves read
have a margin on either side, as wide as the longest way, so that every way is the same row read elsewhere. Indices are
unsigned: a signed one might count from the end, and asking so at every access stops vectorisation. Nothing is sliced,
since a slice counts references. What bounds these loops is what the nearest cache can deliver, and in `follow` the
arithmetic of the exponential.
"""

# pyright: reportCallIssue=false
# See `native`: an intrinsic is called without its first parameter.

import math

import numpy as np
from numba import njit
from numba.np.numpy_support import carray

from ..native import extent, greater, is_query, lesser, numbers, pointer, power_of_two

TERMS = tuple(1 / math.factorial(k) for k in range(12, -1, -1))
"""The series of the exponential as far as it counts where |r| ≤ log 2 / 2; in single precision the last eight."""
DOUBLE = (1 / math.log(2), 6.93147180369123816490e-1, 1.90821492927058770002e-10, -708.0, 0.5, 0.0, 1.0)
SINGLE = tuple(map(np.float32, (1 / math.log(2), 0.693359375, -2.12194440e-4, -87.0, 0.5, 0.0, 1.0)))
"""1 / log 2; log 2 as a number of few digits and the rest, by which a multiple of it is taken off without rounding
(Cody & Waite 1980, chapter 6); below which number the exponential counts as 0; a half, 0 and 1."""

U, WAY = np.uint64, np.uint32(0)
# Called, a loop over a short row takes half as long again.
_inlined = njit(cache=True, error_model="numpy", fastmath={"contract"}, forceinline=True)


@_inlined
def _first_five(base, b, weights, ways, x, at, out, o, k, size):
    """Write a row plus the weighted sum of another as read five ways, from way k on."""
    i, j, m, n = k + U(1), k + U(2), k + U(3), k + U(4)
    p, q, r, t, u = at + ways[k], at + ways[i], at + ways[j], at + ways[m], at + ways[n]
    k, i, j, m, n = k * size, i * size, j * size, m * size, n * size
    for s in range(size):
        near = weights[k + s] * x[p + s] + weights[i + s] * x[q + s]
        far = weights[j + s] * x[r + s] + weights[m + s] * x[t + s] + weights[n + s] * x[u + s]
        out[o + s] = base[b + s] + (near + far)


@_inlined
def _more_five(weights, ways, x, at, out, o, k, size):
    """Add to a row what `_first_five` does."""
    i, j, m, n = k + U(1), k + U(2), k + U(3), k + U(4)
    p, q, r, t, u = at + ways[k], at + ways[i], at + ways[j], at + ways[m], at + ways[n]
    k, i, j, m, n = k * size, i * size, j * size, m * size, n * size
    for s in range(size):
        near = weights[k + s] * x[p + s] + weights[i + s] * x[q + s]
        far = weights[j + s] * x[r + s] + weights[m + s] * x[t + s] + weights[n + s] * x[u + s]
        out[o + s] += near + far


@_inlined
def _first_two(base, b, weights, ways, x, at, out, o, k, size):
    """Write a row plus the weighted sum of another as read two ways, from way k on."""
    p, q = at + ways[k], at + ways[k + U(1)]
    k, i = k * size, (k + U(1)) * size
    for s in range(size):
        out[o + s] = base[b + s] + (weights[k + s] * x[p + s] + weights[i + s] * x[q + s])


@_inlined
def _more_one(weights, ways, x, at, out, o, k, size):
    """Add to a row another as read one way, weighted."""
    p, k = at + ways[k], k * size
    for s in range(size):
        out[o + s] += weights[k + s] * x[p + s]


@_inlined
def _ahead(base, b, weights, ways, first, last, x, at, out, o, size):
    """Write a row plus the weighted sum of another as read the ways from first to last: several ways at a time, since
    each time is a pass over memory."""
    if last - first >= U(5):
        _first_five(base, b, weights, ways, x, at, out, o, first, size)
        first += U(5)
    elif last - first >= U(2):
        _first_two(base, b, weights, ways, x, at, out, o, first, size)
        first += U(2)
    else:
        for s in range(size):
            out[o + s] = base[b + s]
    while last - first >= U(5):
        _more_five(weights, ways, x, at, out, o, first, size)
        first += U(5)
    while first < last:
        _more_one(weights, ways, x, at, out, o, first, size)
        first += U(1)


@_inlined
def _centre(logits, at, size, choices, room, here, there, centred):
    """Write one time's logits less the greatest of each state's."""
    for s in range(size):
        room[here + s] = logits[at + s]
    for first in range(at + size, at + choices * size, size):
        for s in range(size):
            room[there + s] = greater(logits[first + s], room[here + s])
        here, there = there, here
    for first in range(at, at + choices * size, size):
        for s in range(size):
            centred[first + s] = logits[first + s] - room[here + s]


@_inlined
def _exponentiate(numbers, terms, scale, out):
    """Write the exponentials of numbers that are not positive, all in one loop: what is left over of a vector is slow.

    It is 2^n Σ r^k / k!, x = n log 2 + r, |r| ≤ log 2 / 2: XLA's own takes twice as long.
    """
    inverse, high, low, least, half, zero, _ = scale
    for j in range(U(numbers.size)):
        x = numbers[j]
        near = least if x < least else x
        n = np.floor(near * inverse + half) if x == x else zero
        r = (near - n * high) - n * low
        series = terms[0]
        for k in range(1, len(terms)):
            series = series * r + terms[k]
        out[j] = zero if x < least else series * power_of_two(np.int32(n), x)


@_inlined
def _share(policy, at, size, choices, one, room, inverse):
    """Write one over the sum of each state's weights."""
    for s in range(size):
        room[inverse + s] = policy[at + s]
    for first in range(at + size, at + choices * size, size):
        for s in range(size):
            room[inverse + s] += policy[first + s]
    for s in range(size):
        room[inverse + s] = one / room[inverse + s]


@_inlined
def _act(policy, first, flow, here, room, inverse, acting, size):
    """Write an action's chances, and the mass that takes it."""
    for s in range(size):
        chance = policy[first + s] * room[inverse + s]
        policy[first + s] = chance
        room[acting + s] = chance * flow[here + s]


@_inlined
def _widen(reward, at, size, room, here, there):
    """Write each state's greatest and then its least reward so far."""
    for s in range(size):
        paid = reward[at + s]
        room[there + s] = greater(paid, room[here + s])
        room[there + size + s] = lesser(paid, room[here + size + s])


@_inlined
def _summarise(flow, size, room, best, value, extremes, seen):
    """Write what a best response gains over the policy from the first density on, and the largest difference of two
    rewards."""
    gain, high, low = flow[0] * (room[best] - room[value]), room[extremes], room[extremes + size]
    for s in range(U(1), size):
        gain += flow[s] * (room[best + s] - room[value + s])
        high, low = greater(room[extremes + s], high), lesser(room[extremes + size + s], low)
    seen[0], seen[1] = gain, high - low


def look_back(dtype):
    """Return the operation of `bands.look_back`; it counts ways from the start of a row's margin."""
    like = dtype(0)

    def operation(frame):
        if is_query(frame):
            return 0
        decisions, choices, size = U(extent(frame, 1, 0)), U(extent(frame, 1, 1)), U(extent(frame, 1, 2))
        count, gusts, beside = extent(frame, 4, 0), U(extent(frame, 7, 0)), extent(frame, 2, 0, True) > 0
        whole = decisions * choices * size
        flow = carray(numbers(pointer(frame, 0), like), ((decisions + U(1)) * size,))
        reward = carray(numbers(pointer(frame, 1), like), (whole,))
        policy = carray(numbers(pointer(frame, 2), like), (whole,))
        last = carray(numbers(pointer(frame, 3), like), (extent(frame, 3, 0),))
        weights = carray(numbers(pointer(frame, 4), like), (U(count) * size,))
        ways = carray(numbers(pointer(frame, 5), WAY), (count,))
        firsts = carray(numbers(pointer(frame, 6), WAY), (choices + U(1),))
        gust = carray(numbers(pointer(frame, 7), like), (gusts * size,))
        gust_ways = carray(numbers(pointer(frame, 8), WAY), (gusts,))
        margin = U(carray(numbers(pointer(frame, 9), WAY), (1,))[0])
        values = carray(numbers(pointer(frame, 0, True), like), ((decisions + U(1)) * size,))
        actions = carray(numbers(pointer(frame, 1, True), like), (whole,))
        seen = carray(numbers(pointer(frame, 2, True), like), (2,))
        wide, end = size + margin + margin, decisions * size
        # Values of the policy and of the best response, what a gust makes of each, nothing, one action's worth; and,
        # twice, to write from one to the other, the best response's values a step back and states' extreme rewards.
        room = carray(numbers(pointer(frame, 3, True), like), (extent(frame, 3, 0, True),))
        none = U(4) * wide
        worth, top, spare_top = none + size, none + U(2) * size, none + U(3) * size
        extremes, spare_extremes = none + U(4) * size, none + U(6) * size
        value, best = margin, wide + margin
        for s in range(U(room.size)):
            room[s] = 0
        for s in range(size):
            room[value + s] = room[best + s] = values[end + s] = last[s] if last.size > 1 else last[0]
        if beside:
            for s in range(size):
                room[extremes + s] = room[extremes + size + s] = reward[s]
        for back in range(U(1), decisions + U(1)):
            t = decisions - back
            now, read = t * size, U(0)
            if gusts:
                read = wide + wide
                _ahead(room, none, gust, gust_ways, U(0), gusts, room, U(0), room, read + margin, size)
                if beside:
                    _ahead(room, none, gust, gust_ways, U(0), gusts, room, wide, room, read + best, size)
            for a in range(choices):
                at, first, after = (t * choices + a) * size, U(firsts[a]), U(firsts[a + U(1)])
                _ahead(reward, at, weights, ways, first, after, room, read, actions, at, size)
                if a == 0:
                    for s in range(size):
                        values[now + s] = policy[at + s] * actions[at + s]
                else:
                    for s in range(size):
                        values[now + s] += policy[at + s] * actions[at + s]
                if beside:
                    _widen(reward, at, size, room, extremes, spare_extremes)
                    extremes, spare_extremes = spare_extremes, extremes
                    to = worth if a else top
                    _ahead(reward, at, weights, ways, first, after, room, read + wide, room, to, size)
                    if a:
                        for s in range(size):
                            room[spare_top + s] = greater(room[worth + s], room[top + s])
                        top, spare_top = spare_top, top
            for s in range(size):
                room[value + s] = values[now + s]
            if beside:
                for s in range(size):
                    room[best + s] = room[top + s]
        if beside:
            _summarise(flow, size, room, best, value, extremes, seen)
        return 0

    return operation


def follow(dtype):
    """Return the operation of `bands.follow`; ways as for `look_back`, to where mass comes from."""
    like = dtype(0)
    scale, terms = (DOUBLE, TERMS) if dtype is np.float64 else (SINGLE, tuple(map(np.float32, TERMS[-8:])))

    def operation(frame):
        if is_query(frame):
            return 0
        decisions, choices, size = U(extent(frame, 1, 0)), U(extent(frame, 1, 1)), U(extent(frame, 1, 2))
        count, gusts = U(extent(frame, 2, 0)), U(extent(frame, 4, 0))
        whole = decisions * choices * size
        start = carray(numbers(pointer(frame, 0), like), (size,))
        logits = carray(numbers(pointer(frame, 1), like), (whole,))
        weights = carray(numbers(pointer(frame, 2), like), (count * size,))
        ways = carray(numbers(pointer(frame, 3), WAY), (count,))
        gust = carray(numbers(pointer(frame, 4), like), (gusts * size,))
        gust_ways = carray(numbers(pointer(frame, 5), WAY), (gusts,))
        margin = U(carray(numbers(pointer(frame, 6), WAY), (1,))[0])
        centred = carray(numbers(pointer(frame, 0, True), like), (whole,))
        policy = carray(numbers(pointer(frame, 1, True), like), (whole,))
        flow = carray(numbers(pointer(frame, 2, True), like), ((decisions + U(1)) * size,))
        wide = size + margin + margin
        # The mass that takes each action, what arrived before the gust, nothing, the greatest logits, 1 / a sum.
        room = carray(numbers(pointer(frame, 3, True), like), (extent(frame, 3, 0, True),))
        for s in range(U(room.size)):
            room[s] = 0
        arrived, none = choices * wide, (choices + U(1)) * wide
        top, inverse = none + size, none + size + size
        for s in range(size):
            flow[s] = start[s]
        for t in range(decisions):
            _centre(logits, t * choices * size, size, choices, room, top, inverse, centred)
        _exponentiate(centred, terms, scale, policy)
        for t in range(decisions):
            at, now, after = t * choices * size, t * size, t * size + size
            _share(policy, at, size, choices, scale[6], room, inverse)
            for a in range(choices):
                _act(policy, at + a * size, flow, now, room, inverse, a * wide + margin, size)
            if gusts:
                _ahead(room, none, weights, ways, U(0), count, room, U(0), room, arrived + margin, size)
                _ahead(room, none, gust, gust_ways, U(0), gusts, room, arrived, flow, after, size)
            else:
                _ahead(room, none, weights, ways, U(0), count, room, U(0), flow, after, size)
        return 0

    return operation
