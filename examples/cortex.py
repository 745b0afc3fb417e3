"""What sixty-four neurons make of a photograph: fields learnt by Hebb's rule, and what competition is good for.

The same receptive fields explain the same patches twice: once the neurons compete for what remains unexplained, once
each answers its own drive, as if nobody inhibited it. As many are active both times, and their amplitudes are fitted
anew, so that what differs is who speaks.

`catallax run cortex` does this with more neurons, pictures, and the methods that others use.
"""

import numpy as np

from catallax.cortex import encode, learn, patches, photographs, whiten
from catallax.cortex.measure import redundancy, unexplained
from catallax.cortex.pursuit import driven, refit

PENALTY = 0.15

images = [whiten(photograph.pixels) for photograph in photographs()]
stimuli, _ = patches(images, size=8, count=9000, seed=0)
seen, unseen = stimuli[:8000], stimuli[8000:]

learned = learn(seen, 64, PENALTY, signed=False, law="fast")
first, last = learned.history[0], learned.history[-1]
print(f"{last.seen:,} patches seen: objective {first.objective:.4f} at first, {last.objective:.4f} at the end")

codes = encode(unseen, learned.dictionary, PENALTY, signed=False)
print(f"{codes.status} after {codes.rounds} rounds")
for claim in codes.certificates:
    print(f"  {claim.name:<10} {claim.value:.0e}  {'holds' if claim.holds else 'does not hold'}")

rate = np.count_nonzero(codes.activity) / len(unseen)
alone = driven(unseen, learned.dictionary, rate)
print(f"{rate:.1f} of 64 neurons are active on a patch; what they leave unexplained, and how alike their fields are:")
for name, activity in (("competition", codes.activity), ("drive alone", alone)):
    left = unexplained(unseen, refit(unseen, activity, learned.dictionary), learned.dictionary)
    print(f"  {name}  {left:.3f}  {redundancy(activity, learned.dictionary):.3f}")
