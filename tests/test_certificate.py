import json
import math

import pytest

from catallax.certificate import Certificate, from_json, to_json


def test_holds_up_to_and_including_the_tolerance():
    assert Certificate("gap", 1e-6, 1e-6).holds
    assert Certificate("gap", -1.0, 0.0).holds
    assert not Certificate("gap", 1.1e-6, 1e-6).holds


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_never_holds(value):
    assert not Certificate("gap", value, 1e9).holds


def test_a_tolerance_is_finite():
    with pytest.raises(ValueError, match="tolerance of 'gap' must be finite"):
        Certificate("gap", 0.0, math.inf)


def test_json_goes_there_and_back_and_is_strict():
    claims = [Certificate("gap", 0.1 + 0.2, 1e-6, "Near the optimum."), Certificate("balance", 0.0, 1e-9)]
    text = to_json(claims)
    assert from_json(text) == claims
    assert [entry["holds"] for entry in json.loads(text)] == [False, True]
    broken = to_json([Certificate("gap", math.inf, 1e-6)])
    assert "Infinity" not in broken
    assert not from_json(broken)[0].holds
