"""Compile the loops that several tests need, so that processes side by side do not each compile them."""

from catallax.experts import _assigned, _balanced
from catallax.meanfield import _banded
from catallax.native import named

for make in (_balanced.balance, _assigned.assign, _banded.look_back, _banded.follow):
    named(make, "float32")
for make in (_banded.look_back, _banded.follow):
    named(make, "float64")
