"""Random numbers and elementary functions whose every bit is defined.

A draw must come out the same on every device and in every implementation, so nothing here leaves
a last bit to a library: the generator is integer arithmetic, and log and exp are fixed sequences
of single IEEE-754 double operations (no fused multiply-add, no reassociation).
`native/src/sample.cpp` repeats these sequences operation by operation.
"""

from __future__ import annotations

import torch

WEIGHT_BITS = 44
"""Fraction bits of `weight`: sums over 2**18 tokens stay below 2**63."""

_M32 = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LN2 = 0.6931471805599453
_LN2_HIGH = 2977044471 / 2**32  # the first 32 bits of ln 2: exact times a small integer
_LN2_LOW = 1.9082149292705877e-10  # the rest of ln 2
_LOG2E = 1.4426950408889634
_SQRT2 = 1.4142135623730951
_LOG_TERMS = tuple(1.0 / (2 * k + 1) for k in range(11, 0, -1))
_EXP_TERMS = (
    1 / 6227020800,
    1 / 479001600,
    1 / 39916800,
    1 / 3628800,
    1 / 362880,
    1 / 40320,
    1 / 5040,
    1 / 720,
    1 / 120,
    1 / 24,
    1 / 6,
    0.5,
)


def philox4x32(
    counter: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],  # 4 x [...] int64
    key: tuple[torch.Tensor, torch.Tensor],  # 2 x [...] int64
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Philox-4x32 with 10 rounds.

    Args:
        counter: four 32-bit words, held in int64.
        key: two 32-bit words, held in int64.

    Returns:
        Four words of 32 random bits, held in int64.

    Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _M32, (k1 + _KEY_STEPS[1]) & _M32
    return c0, c1, c2, c3


def _multiply(word: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low words of a 32 x 32 bit product; int64 wraps, which keeps all 64 bits."""
    product = word * factor
    return (product >> 32) & _M32, product & _M32


def uniform(
    seed: torch.Tensor,  # [...] int64, 64 bits
    position: torch.Tensor,  # [...] int64
    token_id: torch.Tensor,  # [...] int64
) -> torch.Tensor:
    """The random number of a token at a position of a sequence.

    Philox with key = seed and counter = (token id, position low, position high, 0); the first
    word and the upper 20 bits of the second make n of 52 bits, and the result is
    (n + 1/2) / 2**52, exactly.

    Returns:
        [...] float64, strictly between 0 and 1.
    """
    counter = (token_id, position & _M32, (position >> 32) & _M32, torch.zeros_like(token_id))
    first, second, _, _ = philox4x32(counter, (seed & _M32, (seed >> 32) & _M32))
    bits = (first << 20) | (second >> 12)
    return (bits.to(torch.float64) + 0.5) * 2.0**-52


def log(x: torch.Tensor) -> torch.Tensor:  # [...] float64 -> [...] float64
    """Natural logarithm of positive normal numbers, within 4 units in the last place.

    x = m * 2**e with m in [sqrt(1/2), sqrt(2)); log m = 2 artanh(s) with s = (m - 1) / (m + 1),
    as a series in s**2 < 0.0295 of which 12 terms reach 2**-60.
    """
    bits = x.view(torch.int64)
    exponent = ((bits >> 52) - 1023).to(torch.float64)
    m = ((bits & 0xFFFFFFFFFFFFF) | (1023 << 52)).view(torch.float64)
    upper = m >= _SQRT2
    m = torch.where(upper, m * 0.5, m)
    exponent = torch.where(upper, exponent + 1.0, exponent)
    f = m - 1.0
    s = f / (f + 2.0)
    z = s * s
    series = torch.full_like(z, _LOG_TERMS[0])
    for term in _LOG_TERMS[1:]:
        series = series * z + term
    twice = s + s
    return exponent * _LN2 + (twice * (z * series) + twice)


def gumbel(
    seed: torch.Tensor,  # [...] int64
    position: torch.Tensor,  # [...] int64
    token_id: torch.Tensor,  # [...] int64
) -> torch.Tensor:
    """Standard Gumbel noise -log(-log u) of `uniform`: [...] float64, in about -3.6..36.8."""
    return -log(-log(uniform(seed, position, token_id)))


def weight(x: torch.Tensor) -> torch.Tensor:  # [...] float64 <= 0 -> [...] int64
    """exp(x) in fixed point: exp(x) * 2**WEIGHT_BITS, rounded; exactly 2**WEIGHT_BITS at 0.

    Integers sum to the same total in any order, so masses do not depend on how they are summed.

    Source: exp by x = k ln 2 + r, |r| <= ln 2 / 2, and 13 terms of the power series of r.
    """
    x = torch.clamp(x, min=-40.0)  # below -31.2 the result is 0
    k = torch.round(x * _LOG2E)
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    series = torch.full_like(r, _EXP_TERMS[0])
    for term in _EXP_TERMS[1:]:
        series = series * r + term
    value = (series * r) * r + r + 1.0
    scale = ((k.to(torch.int64) + (1023 + WEIGHT_BITS)) << 52).view(torch.float64)
    return torch.round(value * scale).to(torch.int64)
