"""The compiled loops of `balance` and `assign`, each one operation of XLA on the CPU. Needs numba.

They are those functions' laws, number for number but for rounding. Two economies on the way: demand falls as the price
rises, so that of seven trial prices three are counted; and an expert's tokens stay in the nearest cache from trial to
trial. What bounds `balance` is counting, a comparison for each token and trial price.
"""

# pyright: reportCallIssue=false
# See `native`: an intrinsic is called without its first parameter.

import numpy as np
from numba import njit
from numba.np.numpy_support import carray

from ..native import extent, greater, is_query, lesser, numbers, pointer, trailing_zeros
from .balance import BEYOND, LEAST, MEMORY, PASSES, RIDGE
from .clear import REPAIR_STEPS, TRIALS
from .dispatch import WORD as WORD_BITS

U, WHOLE, BITS, TRUTH = np.uint64, np.int32(0), np.uint32(0), np.uint8(0)
WIDE, WORD = MEMORY + 1, U(WORD_BITS)
LINE = U(16)
MIDDLE = (TRIALS + 1) // 2
# Called, a loop over a row takes longer.
_inlined = njit(cache=True, error_model="numpy", forceinline=True)
# The greatest of several is the same in any order.
_greatest = njit(cache=True, error_model="numpy", forceinline=True, fastmath={"nnan", "nsz", "reassoc"})


@_inlined
def _turn(affinity, tokens, experts, across):
    """Write the table with each expert's tokens next to one another, a cache line of each at a time."""
    for first in range(U(0), tokens, LINE):
        for e in range(experts):
            for n in range(first, min(first + LINE, tokens)):
                across[e * tokens + n] = affinity[n * experts + e]


@_inlined
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


@_inlined
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


@_inlined
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


@_inlined
def _highest(across, price, tokens, experts, best, rows, rest, zero, far):
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


@_inlined
def _middle(best, here, tokens, active, reserve, half):
    """Write the middle between each token's k-th and (k+1)-th highest surplus."""
    after = here + active * tokens
    last = after - tokens
    for n in range(tokens):
        reserve[n] = best[last + n] * half + best[after + n] * half


@_inlined
def _content(best, here, tokens, active, reserve, one, far):
    """Write reserves of the tokens that can reach no more experts than they take: less than any of these."""
    after = here + active * tokens
    for n in range(tokens):
        if not best[after + n] > -far:
            least = far
            for r in range(active):
                surplus = best[here + r * tokens + n]
                if surplus > -far and surplus < least:
                    least = surplus
            reserve[n] = least - one


@_inlined
def _exceed(across, first, tokens, reserve, worth):
    """Write what an expert is worth to each token beyond its reserve."""
    for n in range(tokens):
        worth[first + n] = across[first + n] - reserve[n]


@_inlined
def _takers(worth, first, tokens, price):
    """Count the tokens to which an expert is worth more than a price."""
    count = WHOLE
    for n in range(tokens):
        count = np.int32(count + (worth[first + n] > price))
    return count


@_greatest
def _most(worth, first, tokens, zero):
    """Return the most that an expert is worth to a token, if that is more than nothing."""
    most = zero
    for n in range(tokens):
        most = worth[first + n] if worth[first + n] > most else most
    return most


@_inlined
def _narrow(worth, first, tokens, low, high, known, capacity, slack, floor, parts):
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
        count = known if known >= 0 else _takers(worth, first, tokens, price)
        known = np.int32(-1)
        if count + (slack if price < floor else 0) <= capacity:
            far = trial
        else:
            near = trial
    below = low if near == 0 else low + width * parts[near]
    return below, high if far == TRIALS + 1 else low + width * parts[far]


@_inlined
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


@_inlined
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


@_inlined
def _floor(price, experts, half):
    """Return the middle between the least price and the next: the reserve of idle tokens."""
    first, second = min(price[0], price[1]), max(price[0], price[1])
    for e in range(U(2), experts):
        second = min(second, max(first, price[e]))
        first = min(first, price[e])
    return first * half + second * half


@_inlined
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
        _turn(affinity, tokens, experts, across)
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
            here = _highest(across, price, tokens, experts, best, rows, row, zero, far)
            _middle(best, here, tokens, active, reserve, half)
            most = 0
            for e in range(experts):
                _exceed(across, e * tokens, tokens, reserve, worth)
                takers[e] = _takers(worth, e * tokens, tokens, price[e])
                most = max(most, takers[e])
            if swept >= sweeps or most <= enough:
                break
            floor, mean = _floor(price, experts, half), zero
            for e in range(experts):
                low, high, known = price[e] - span, price[e] + span, takers[e]
                for _ in range(PASSES):
                    low, high = _narrow(worth, e * tokens, tokens, low, high, known, capacity, slack, floor, parts)
                    known = np.int32(-1)
                change[e] = high - price[e]
                mean += change[e]
            mean /= dtype(experts)
            for e in range(experts):
                change[e] -= mean
                for i in range(MEMORY - 1, 0, -1):
                    moved[i * experts + e] = moved[(i - 1) * experts + e]
                    turned[i * experts + e] = turned[(i - 1) * experts + e]
                if swept > 0:
                    moved[e] = price[e] - before[e]
                    turned[e] = change[e] - before[experts + e]
                before[e], before[experts + e] = price[e], change[e]
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


@_inlined
def _hold(worth, first, tokens, limit, words, at, bit):
    """Set an expert's bit in the words of the tokens to which it is worth more than a limit."""
    for n in range(tokens):
        words[at + n] = np.uint32(words[at + n] | np.uint32(np.uint32(worth[first + n] > limit) << bit))


@_inlined
def _list(words, tokens, experts, active, chosen, kept, room):
    """Write the numbers of the experts that hold each token, least first, and take their places."""
    for n in range(tokens):
        found = U(0)
        for word in range((experts + WORD - U(1)) // WORD):
            left = words[word * tokens + n]
            while left != BITS and found < active:
                e = word * WORD + U(trailing_zeros(left))
                left = np.uint32(left & np.uint32(left - np.uint32(1)))
                chosen[n * active + found], kept[n * active + found] = np.int32(e), np.uint8(1)
                room[e] -= np.int32(1)
                found += U(1)
        for j in range(found, active):
            chosen[n * active + j], kept[n * active + j] = WHOLE, TRUTH


@_inlined
def _holds(chosen, kept, first, active, expert):
    """Say whether a token holds an expert."""
    found = False
    for j in range(first, first + active):
        found = found or (kept[j] != TRUTH and chosen[j] == expert)
    return found


@_inlined
def _missing(kept, first, active):
    """Return the first of a token's choices that it lacks, or how many it has if it lacks none."""
    j = U(0)
    while j < active and kept[first + j] != TRUTH:
        j += U(1)
    return j


@_inlined
def _bid(surplus, who, experts, active, chosen, kept, room, far):
    """Return the best expert with room for a token that lacks one, what it is worth, and what the next best is."""
    expert, best, second = WHOLE, -far, -far
    for e in range(experts):
        offer = surplus[who * experts + e]
        if room[e] > 0 and offer > second and not _holds(chosen, kept, who * active, active, np.int32(e)):
            if offer > best:
                expert, best, second = np.int32(e), offer, best
            else:
                second = offer
    return expert, best, second


@_inlined
def _auction(surplus, experts, active, chosen, kept, room, waiting, left, size, bidder, wanted, loss, far):
    """Let tokens that miss a place bid for experts with room, so many at a time, until none does that can."""
    while left > U(0):
        bids, still = U(0), U(0)
        for i in range(left):
            n = U(waiting[i])
            if i >= size:
                waiting[still] = np.int32(n)
                still += U(1)
                continue
            expert, best, second = _bid(surplus, n, experts, active, chosen, kept, room, far)
            # Who can bid no more is left out from here on.
            if best > -far:
                waiting[still] = np.int32(n)
                still += U(1)
                # In order of the expert, then of what the bidder would lose, greatest first, then of arrival.
                j, lost = bids, best - second
                while j > U(0) and (
                    wanted[j - U(1)] > expert or (wanted[j - U(1)] == expert and loss[j - U(1)] < lost)
                ):
                    bidder[j], wanted[j], loss[j] = bidder[j - U(1)], wanted[j - U(1)], loss[j - U(1)]
                    j -= U(1)
                bidder[j], wanted[j], loss[j] = np.int32(n), expert, lost
                bids += U(1)
        for j in range(bids):
            e = wanted[j]
            if room[e] > 0:
                first = U(bidder[j]) * active
                slot = first + _missing(kept, first, active)
                chosen[slot], kept[slot] = e, np.uint8(1)
                room[e] -= np.int32(1)
        left = U(0)
        for i in range(still):
            n = U(waiting[i])
            if _missing(kept, n * active, active) < active:
                waiting[left] = np.int32(n)
                left += U(1)


@_inlined
def _swap(surplus, tokens, experts, active, chosen, kept, room, far):
    """Place tokens that have every expert with room: another token moves there and leaves its place; see `clear`."""
    for who in range(tokens):
        slot = _missing(kept, who * active, active)
        while slot < active:
            free = U(0)
            for e in range(experts):
                free = e if room[e] > room[free] else free
            if room[free] <= 0:
                return
            most, moving = -far, U(0)
            for other in range(tokens):
                if _holds(chosen, kept, other * active, active, np.int32(free)):
                    continue
                for j in range(other * active, other * active + active):
                    e = chosen[j]
                    if kept[j] == TRUTH or _holds(chosen, kept, who * active, active, e):
                        continue
                    gain = surplus[other * experts + free] - surplus[other * experts + U(e)]
                    gain += surplus[who * experts + U(e)]
                    if gain > most:
                        most, moving = gain, j
            if not most > -far:
                break
            chosen[who * active + slot], kept[who * active + slot] = chosen[moving], np.uint8(1)
            chosen[moving] = np.int32(free)
            room[free] -= np.int32(1)
            slot = _missing(kept, who * active, active)


def assign(dtype):
    """Return the operation of `assign`, with repair and prices taken off already."""
    like = dtype(0)
    zero, one, half, far = map(dtype, (0, 1, 0.5, np.inf))
    parts = tuple(dtype(part / (TRIALS + 1)) for part in range(TRIALS + 2))

    def operation(frame):
        if is_query(frame):
            return 0
        tokens, experts, active = U(extent(frame, 0, 0)), U(extent(frame, 0, 1)), U(extent(frame, 0, 1, True))
        rows, size = U(extent(frame, 4, 1, True)), U(extent(frame, 11, 0, True))
        surplus = carray(numbers(pointer(frame, 0), like), (tokens * experts,))
        capacity = carray(numbers(pointer(frame, 1), WHOLE), (1,))[0]
        chosen = carray(numbers(pointer(frame, 0, True), WHOLE), (tokens * active,))
        kept = carray(numbers(pointer(frame, 1, True), TRUTH), (tokens * active,))
        load = carray(numbers(pointer(frame, 2, True), WHOLE), (experts,))
        across = carray(numbers(pointer(frame, 3, True), like), (experts * tokens,))
        best = carray(numbers(pointer(frame, 4, True), like), (U(2) * rows * tokens,))
        rest = carray(numbers(pointer(frame, 5, True), like), (U(2) * tokens,))
        reserve = carray(numbers(pointer(frame, 6, True), like), (tokens,))
        words = carray(numbers(pointer(frame, 7, True), BITS), (extent(frame, 7, 0, True) * tokens,))
        price = carray(numbers(pointer(frame, 8, True), like), (experts,))
        room = carray(numbers(pointer(frame, 9, True), WHOLE), (experts,))
        waiting = carray(numbers(pointer(frame, 10, True), WHOLE), (tokens,))
        bidder = carray(numbers(pointer(frame, 11, True), WHOLE), (size,))
        wanted = carray(numbers(pointer(frame, 12, True), WHOLE), (size,))
        loss = carray(numbers(pointer(frame, 13, True), like), (size,))
        for e in range(experts):
            price[e] = zero
        for j in range(U(words.size)):
            words[j] = BITS
        _turn(surplus, tokens, experts, across)
        here = _highest(across, price, tokens, experts, best, rows, rest, zero, far)
        _middle(best, here, tokens, active, reserve, half)
        _content(best, here, tokens, active, reserve, one, far)
        for e in range(experts):
            first = e * tokens
            _exceed(across, first, tokens, reserve, across)
            load[e] = _takers(across, first, tokens, zero)
            room[e] = capacity if _takers(across, first, tokens, -far) > 0 else WHOLE
            low, high = zero, zero
            if load[e] > capacity:
                high = _most(across, first, tokens, zero)
                for _ in range(REPAIR_STEPS):
                    low, high = _narrow(across, first, tokens, low, high, np.int32(-1), capacity, 0, zero, parts)
            _hold(across, first, tokens, high, words, e // WORD * tokens, np.uint32(e % WORD))
        _list(words, tokens, experts, active, chosen, kept, room)
        left = U(0)
        for n in range(tokens):
            if _missing(kept, n * active, active) < active:
                waiting[left] = np.int32(n)
                left += U(1)
        _auction(surplus, experts, active, chosen, kept, room, waiting, left, size, bidder, wanted, loss, far)
        _swap(surplus, tokens, experts, active, chosen, kept, room, far)
        return 0

    return operation
