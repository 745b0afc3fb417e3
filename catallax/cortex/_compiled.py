"""The compiled loops of `kernel`: neurons compete one after another, sample by sample. Needs numba.

Loops index whole arrays instead of slicing them: a slice counts references with atomic instructions, which took a
third of the time.
"""

import numpy as np
from numba import njit, prange

LANES = 16
"""Rows are as long as a whole number of these single-precision numbers, so that loops leave no remainder."""
CHUNK = 64
"""Samples that share one piece of scratch memory; even."""
DEPTH = 8
"""Inputs that drive all neurons in one go: their fields stay in the nearest cache."""
TILE = 512
"""Neurons that are driven in one go, for the same reason."""
RECRUITS = 32
"""About how many neurons at most join the competitors of a sample in a round: the strongest."""
SHRINK = np.float32(0.7)
"""Strong neurons respond first: the level above which a silent one does falls by this factor from turn to turn."""
SETTLED = np.float32(0.25)
"""Competitors rest when none moves by more than this share of the tolerance: others' last moves add up."""
TURNS = 1000
"""Turns after which competitors that still move are left for the next round."""

_compiled = njit(cache=True, fastmath=True, error_model="numpy")


@_compiled
def _drive(stimuli, first, last, columns, seen, drives):
    """Write the drives of all neurons by samples first to last, two samples at a time.

    A library's matrix product is twice as fast, but its threads go on waiting, at full load, for longer than it took.
    """
    for n in range(last - first):
        for k in range(stimuli.shape[1]):
            seen[n, k] = stimuli[first + n, k]
    units = np.uint64(drives.shape[1])
    for tile in range(np.uint64(0), units, np.uint64(TILE)):
        stop = min(tile + np.uint64(TILE), units)
        for n in range((last - first + 1) // 2 * 2):
            for j in range(tile, stop):
                drives[n, j] = np.float32(0.0)
        for k in range(0, columns.shape[0], DEPTH):
            for n in range(0, last - first, 2):
                a, b, c, d = seen[n, k], seen[n, k + 1], seen[n, k + 2], seen[n, k + 3]
                e, f, g, h = seen[n, k + 4], seen[n, k + 5], seen[n, k + 6], seen[n, k + 7]
                o, p, q, r = seen[n + 1, k], seen[n + 1, k + 1], seen[n + 1, k + 2], seen[n + 1, k + 3]
                s, t, u, v = seen[n + 1, k + 4], seen[n + 1, k + 5], seen[n + 1, k + 6], seen[n + 1, k + 7]
                for j in range(tile, stop):
                    w, x, y, z = columns[k, j], columns[k + 1, j], columns[k + 2, j], columns[k + 3, j]
                    drives[n, j] += a * w + b * x + c * y + d * z
                    drives[n + 1, j] += o * w + p * x + q * y + r * z
                    w, x, y, z = columns[k + 4, j], columns[k + 5, j], columns[k + 6, j], columns[k + 7, j]
                    drives[n, j] += e * w + f * x + g * y + h * z
                    drives[n + 1, j] += s * w + t * x + u * y + v * z


@_compiled
def _top(drives, n, signed, tops):
    """Return the largest drive of sample n: lane by lane first, since one maximum alone is found one by one."""
    whole = drives.shape[1] // LANES * LANES
    tops[:] = np.float32(0.0)
    for start in range(0, whole, LANES):
        for j in range(LANES):
            drive = drives[n, start + j]
            tops[j] = max(tops[j], abs(drive) if signed else drive)
    for j in range(whole, drives.shape[1]):
        tops[0] = max(tops[0], abs(drives[n, j]) if signed else drives[n, j])
    return tops.max()


@_compiled
def _level(drives, n, penalty, top, signed):
    """Return the penalty, or a level over it above which there are not too many neurons."""
    low, high, level = penalty, top, penalty
    for _ in range(8):
        above = np.int32(0)
        if signed:
            for j in range(drives.shape[1]):
                above += np.int32(abs(drives[n, j]) > level)
        else:
            for j in range(drives.shape[1]):
                above += np.int32(drives[n, j] > level)
        if above > RECRUITS:
            low = level
        else:
            high = level
            if above > RECRUITS // 2 or level == penalty:
                break
        level = np.float32(0.5) * (low + high)
    return level if high == top else high


@_compiled
def _recruit(drives, n, level, signed, inside, members, count):
    """Let the neurons above a level join the competitors while there is room; return how many compete."""
    for j in range(drives.shape[1]):
        drive = drives[n, j]
        if (abs(drive) if signed else drive) > level and not inside[j] and count < members.size:
            members[count] = j
            inside[j] = True
            count += 1
    return count


@_compiled
def _meet(members, old, count, width, table, fields, inhibition):
    """Write how strongly the competitors inhibit one another: rows and columns of the new ones, zeros up to `width`."""
    for i in range(old, count):
        me = members[i]
        for j in range(i):
            if table.size:
                inhibition[i, j] = table[me, members[j]]
            else:
                other = members[j]
                total = np.float32(0.0)
                for k in range(fields.shape[1]):
                    total += fields[me, k] * fields[other, k]
                inhibition[i, j] = total
        inhibition[i, i] = np.float32(1.0)
    for i in range(count):
        for j in range(max(i + 1, old), count):
            inhibition[i, j] = inhibition[j, i]
        for j in range(count, width):
            inhibition[i, j] = np.float32(0.0)


@_compiled
def _compete(inhibition, count, width, drive, activity, penalty, signed, tol, level):
    """Let the competitors settle: each in turn takes the activity at which it rests, and inhibits the others at once.

    Exact coordinate descent on the lasso (Friedman, Hastie, Höfling and Tibshirani 2007).
    """
    for _ in range(TURNS):
        level = max(level * SHRINK, penalty)
        largest = np.float32(0.0)
        for i in range(count):
            old = activity[i]
            potential = drive[i] + old
            if old == 0.0 and (abs(potential) if signed else potential) <= level:
                continue
            new = np.float32(0.0)
            if potential > penalty:
                new = potential - penalty
            elif signed and potential < -penalty:
                new = potential + penalty
            change = new - old
            activity[i] = new
            for j in range(width):
                drive[j] -= change * inhibition[i, j]
            largest = max(largest, abs(change))
        if level <= penalty and largest <= SETTLED * tol * penalty:
            break


@_compiled
def _inhibit(drives, n, table, members, changes, count):
    """Let what changed inhibit every neuron; four at a time, so that the drives are read and written less often."""
    moved = 0
    for i in range(count):
        if changes[i] != 0.0:
            changes[moved], members[moved] = changes[i], members[i]
            moved += 1
    for i in range(moved, moved + 3):
        changes[i], members[i] = np.float32(0.0), members[0]
    for i in range(0, moved, 4):
        a, b, c, d = changes[i], changes[i + 1], changes[i + 2], changes[i + 3]
        p, q, r, s = members[i], members[i + 1], members[i + 2], members[i + 3]
        for j in range(drives.shape[1]):
            drives[n, j] -= a * table[p, j] + b * table[q, j] + c * table[r, j] + d * table[s, j]


@_compiled
def _rests(drives, n, members, activity, count, penalty, tol):
    """Return whether the drive of every active competitor is at the threshold."""
    furthest = np.float32(0.0)
    for i in range(count):
        if activity[i] != 0.0:
            drive = drives[n, members[i]]
            furthest = max(furthest, abs((drive if activity[i] > 0.0 else -drive) - penalty))
    return furthest <= tol * penalty


@_compiled
def _sample(drives, n, table, fields, penalty, signed, tol, rounds, count, inside, members, activity, scratch):
    """Settle one sample, whose `count` first members are active already. Return how many compete and whether all rest.

    Without a table the drives of all are not known after the first round, and the caller comes back with them.
    """
    inhibition, near, changes, movers, tops = scratch
    known = 0
    for turn in range(rounds):
        top = _top(drives, n, signed, tops)
        excess = top / penalty - np.float32(1.0)
        if excess <= tol and (turn > 0 or _rests(drives, n, members, activity, count, penalty, tol)):
            return count, True
        count = _recruit(drives, n, _level(drives, n, penalty, top, signed), signed, inside, members, count)
        width = (count + LANES - 1) // LANES * LANES
        _meet(members, known, count, width, table, fields, inhibition)
        for i in range(count):
            near[i] = drives[n, members[i]]
            changes[i], movers[i] = -activity[i], members[i]
        for i in range(count, width):
            near[i] = np.float32(0.0)
        _compete(inhibition, count, width, near, activity, penalty, signed, tol, top)
        if not table.size:
            break
        for i in range(count):
            changes[i] += activity[i]
        _inhibit(drives, n, table, movers, changes, count)
        known = count
    return count, False


@_compiled
def _write(n, count, inside, members, activity, units, values):
    """Write who is active, in order, and clear the scratch memory; return how many are."""
    kept = 0
    for i in range(count):
        who, value = members[i], activity[i]
        inside[who] = False
        activity[i] = np.float32(0.0)
        if value == 0.0:
            continue
        place = kept
        while place > 0 and units[n, place - 1] > who:
            units[n, place], values[n, place] = units[n, place - 1], values[n, place - 1]
            place -= 1
        units[n, place], values[n, place] = who, value
        kept += 1
    return kept


@_compiled
def _tabulate(fields, first, columns, table):
    """Write how strongly a chunk of neurons is inhibited by every other: what their fields would drive."""
    last = min(first + CHUNK, fields.shape[0])
    seen, drives = np.zeros((CHUNK, columns.shape[0]), np.float32), np.empty((CHUNK, columns.shape[1]), np.float32)
    _drive(fields, first, last, columns, seen, drives)
    for n in range(last - first):
        for j in range(columns.shape[1]):
            table[first + n, j] = drives[n, j]


@njit(cache=True, parallel=True, fastmath=True, error_model="numpy")
def settle(
    remaining, columns, table, fresh, fields, penalty, signed, tol, rounds, chosen, units, values, counts, rests
):
    """Settle a block of samples.

    Args:
        remaining: Shape (some, inputs): what the activities so far leave unexplained.
        columns: Shape (inputs, units): the fields, with rows of zeros up to a whole number of `DEPTH`.
        table: Shape (units, units): how strongly neurons inhibit one another; or (0, 0), to find out from the fields.
        fresh: Whether the table is yet to be written. It is not a function of its own: threads that have nothing to do
            between two of them keep a core at full load meanwhile.
        fields: Shape (units, inputs).
        penalty: The threshold.
        signed: Whether activities may be negative.
        tol: At which changes, and excess over the threshold, as a share of it, a neuron rests.
        rounds: How many at most.
        chosen: Shape (some,): which samples these are.
        units: Shape (samples, competitors at most): who is active, in and out.
        values: Shape (samples, competitors at most): how strongly, in and out.
        counts: Shape (samples,): how many are, in and out.
        rests: Shape (samples,): whether they are at rest, out.
    """
    if fresh:
        for chunk in prange((table.shape[0] + CHUNK - 1) // CHUNK):
            _tabulate(fields, chunk * CHUNK, columns, table)
    some, limit = chosen.size, units.shape[1]
    for chunk in prange((some + CHUNK - 1) // CHUNK):
        first, last = chunk * CHUNK, min(some, (chunk + 1) * CHUNK)
        drives, seen = np.empty((CHUNK, columns.shape[1]), np.float32), np.zeros((CHUNK, columns.shape[0]), np.float32)
        _drive(remaining, first, last, columns, seen, drives)
        inside = np.zeros(columns.shape[1], np.bool_)
        # Unsigned: a signed index might count from the end, and asking so at every access stops vectorisation.
        members, movers = np.zeros(limit, np.uint32), np.zeros(limit + 4, np.uint32)
        activity, near, changes = (
            np.zeros(limit, np.float32),
            np.zeros(limit, np.float32),
            np.zeros(limit + 4, np.float32),
        )
        scratch = np.empty((limit, limit), np.float32), near, changes, movers, np.empty(LANES, np.float32)
        for n in range(last - first):
            s = chosen[first + n]
            for i in range(counts[s]):
                members[i], activity[i] = units[s, i], values[s, i]
                inside[members[i]] = True
            count, rests[s] = _sample(
                drives, n, table, fields, penalty, signed, tol, rounds, counts[s], inside, members, activity, scratch
            )
            counts[s] = _write(s, count, inside, members, activity, units, values)


@_compiled
def pack(units, values, counts, chosen, indices, data):
    """Write the chosen rows of `settle` one after the other."""
    place = 0
    for n in range(chosen.size):
        s = chosen[n]
        for i in range(counts[s]):
            indices[place], data[place] = units[s, i], values[s, i]
            place += 1
