"""The compiled loop of `assign`: the exact assignment at given prices, as one operation of XLA on the CPU. Needs numba.

It is the law of `assign` with repair: the same choices, unless two worths differ by rounding alone. What bounds it is
the table's turning, and the bids.
"""

# pyright: reportCallIssue=false
# See `native`: an intrinsic is called without its first parameter.

import numpy as np
from numba import njit
from numba.np.numpy_support import carray

from ..native import extent, is_query, numbers, pointer, trailing_zeros
from ._balanced import WHOLE, U, count_takers, exceed, highest, inlined, narrow, turn, write_reserves
from .clear import REPAIR_STEPS, TRIALS
from .dispatch import WORD as WORD_BITS

BITS, TRUTH, WORD = np.uint32(0), np.uint8(0), U(WORD_BITS)
# The greatest of several is the same in any order.
_greatest = njit(cache=True, error_model="numpy", forceinline=True, fastmath={"nnan", "nsz", "reassoc"})


@inlined
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


@_greatest
def _most(worth, first, tokens, zero):
    """Return the most that an expert is worth to a token, if that is more than nothing."""
    most = zero
    for n in range(tokens):
        most = worth[first + n] if worth[first + n] > most else most
    return most


@inlined
def _hold(worth, first, tokens, limit, words, at, bit):
    """Set an expert's bit in the words of the tokens to which it is worth more than a limit."""
    for n in range(tokens):
        words[at + n] = np.uint32(words[at + n] | np.uint32(np.uint32(worth[first + n] > limit) << bit))


@inlined
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


@inlined
def _holds(chosen, kept, first, active, expert):
    """Say whether a token holds an expert."""
    found = False
    for j in range(first, first + active):
        found = found or (kept[j] != TRUTH and chosen[j] == expert)
    return found


@inlined
def _missing(kept, first, active):
    """Return the first of a token's choices that it lacks, or how many it has if it lacks none."""
    j = U(0)
    while j < active and kept[first + j] != TRUTH:
        j += U(1)
    return j


@inlined
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


@inlined
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


@inlined
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
        turn(surplus, tokens, experts, across)
        here = highest(across, price, tokens, experts, best, rows, rest, zero, far)
        write_reserves(best, here, tokens, active, reserve, half)
        _content(best, here, tokens, active, reserve, one, far)
        for e in range(experts):
            first = e * tokens
            exceed(across, first, tokens, reserve, across)
            load[e] = count_takers(across, first, tokens, zero)
            room[e] = capacity if count_takers(across, first, tokens, -far) > 0 else WHOLE
            low, high = zero, zero
            if load[e] > capacity:
                high = _most(across, first, tokens, zero)
                for _ in range(REPAIR_STEPS):
                    low, high = narrow(across, first, tokens, low, high, np.int32(-1), capacity, 0, zero, parts)
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
