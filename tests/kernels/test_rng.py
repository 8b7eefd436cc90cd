"""The random numbers: published answers, and functions whose bits are defined."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from sgrt_kernels.head_sample import exact

WORDS = tuple[int, int, int, int]
FULL = 0xFFFFFFFF


def words(*values: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([v], dtype=torch.int64) for v in values)


# Known answers of the authors' Random123 distribution for philox4x32 with 10 rounds.
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((FULL,) * 4, (FULL,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_published_inputs_give_published_words(
    counter: WORDS, key: tuple[int, int], expected: WORDS
) -> None:
    c0, c1, c2, c3 = words(*counter)
    k0, k1 = words(*key)
    assert tuple(int(w) for w in exact.philox4x32((c0, c1, c2, c3), (k0, k1))) == expected


def draw_uniform(seed: int, position: int, ids: torch.Tensor) -> torch.Tensor:
    signed = seed - (1 << 64) if seed >= 1 << 63 else seed
    return exact.uniform(torch.full_like(ids, signed), torch.full_like(ids, position), ids)


def test_uniform_every_key_part_changes_the_numbers() -> None:
    ids = torch.arange(1000)
    base = draw_uniform(7, 3, ids)
    for seed, position in [
        (8, 3),
        (7, 4),
        (7 + (1 << 32), 3),
        (7 + (1 << 63), 3),
        (7, 3 + (1 << 32)),
    ]:
        assert (draw_uniform(seed, position, ids) != base).all()
    assert (draw_uniform(7, 3, ids + 1) != base).all()
    assert torch.equal(draw_uniform(7, 3, ids.flip(0)).flip(0), base)


def test_uniform_many_numbers_spread_evenly() -> None:
    u = draw_uniform(1, 0, torch.arange(200_000))
    assert u.min() > 0 and u.max() < 1
    counts = torch.histc(u, 100, 0.0, 1.0)
    chi_square = float(((counts - 2000) ** 2 / 2000).sum())
    assert chi_square < 148.2  # 99 degrees of freedom, p = 0.001
    assert abs(float(torch.corrcoef(torch.stack((u[:-1], u[1:])))[0, 1])) < 0.01


@pytest.mark.parametrize("low", [2.0**-53, 1e-12, 0.3, 0.70710678118654, 0.9999, 1 - 2.0**-30])
def test_log_over_the_range_is_within_4_ulp(low: float) -> None:
    x = torch.linspace(low, min(low * 1.5, 1 - 2.0**-53), 2000, dtype=torch.float64)
    expected = [math.log(v) for v in x.tolist()]
    for got, want in zip(exact.log(x).tolist(), expected, strict=True):
        assert abs(got - want) <= 4 * math.ulp(want)


def test_log_next_to_one_keeps_relative_precision() -> None:
    x = torch.tensor([1 - 2.0**-53, 1 - 2.0**-52, 1 + 2.0**-52], dtype=torch.float64)
    expected = [-(2.0**-53), -(2.0**-52), 2.0**-52]
    assert exact.log(x).tolist() == pytest.approx(expected, rel=1e-15)


def test_weight_is_fixed_point_exp() -> None:
    x = -torch.linspace(0, 45, 5000, dtype=torch.float64)
    one = 1 << exact.WEIGHT_BITS
    for got, at in zip(exact.weight(x).tolist(), x.tolist(), strict=True):
        want = Fraction(math.exp(at)) * one
        assert abs(got - want) <= 1 + want * Fraction(1, 1 << 51)
    assert exact.weight(torch.zeros(1, dtype=torch.float64)).item() == one
    assert exact.weight(torch.tensor([-torch.inf], dtype=torch.float64)).item() == 0


def test_gumbel_mean_and_variance_are_those_of_the_distribution() -> None:
    ids = torch.arange(200_000)
    noise = exact.gumbel(torch.full_like(ids, 11), torch.full_like(ids, 5), ids)
    assert float(noise.mean()) == pytest.approx(0.5772156649, abs=0.012)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, rel=0.02)
