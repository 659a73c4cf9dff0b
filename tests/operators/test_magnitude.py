"""Scales of two that bring numbers near one without a rounding error."""

from __future__ import annotations

import math

import pytest
import torch

from resolvent.operators.magnitude import moderate, power_of_two, unit_of


@pytest.mark.parametrize("size", [1e-300, 1e-30, 0.7, 1.0, 3.0, 1e30, 1.7e308])
def test_units_enclose_the_largest_entry(size):
    unit = unit_of(torch.tensor([0.0, -size, size / 3], dtype=torch.float64))
    assert unit <= size < 2 * unit and math.frexp(unit)[0] == 0.5
    assert power_of_two(size) == 2 * unit or size > 8e307


def test_nothing_and_infinity_have_the_unit_one():
    assert unit_of(torch.zeros(3)) == unit_of(torch.zeros(0)) == power_of_two(0.0) == power_of_two(math.inf) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64])
def test_moderate_changes_no_digit_and_leaves_what_needs_nothing(dtype):
    t = torch.randn(20, dtype=dtype, generator=torch.Generator().manual_seed(0))
    assert moderate(t)[0] is t
    far = t * 2.0**100 if dtype != torch.float64 else t * 2.0**1000
    scaled, unit = moderate(far)
    assert bool((scaled * unit == far).all()) and bool(torch.isfinite(scaled.abs().square().sum()))
