"""The conformance suite: the laws that a system must keep, as checks that anybody can call on theirs.

    from catallax.testing import check_system

    def test_my_system():
        check_system(MySystem(), state, key=jax.random.key(0), conserves={"money": total_money})

Every check raises `ConformanceError`, which names the law and says what broke it. Give a state of a few dozen
agents whose number occurs nowhere else (not 4 agents on 4 sites), so that a shape of that length is a sign.

What no check can see: a parameter that was computed from the whole population before the system was built.
"""

from .checks import (
    check_compilations,
    check_conservation,
    check_determinism,
    check_devices,
    check_gradient,
    check_locality,
    check_message_size,
    check_permutation,
    check_system,
    check_vmap,
)
from .crowd import ConformanceError

__all__ = [
    "ConformanceError",
    "check_compilations",
    "check_conservation",
    "check_determinism",
    "check_devices",
    "check_gradient",
    "check_locality",
    "check_message_size",
    "check_permutation",
    "check_system",
    "check_vmap",
]
