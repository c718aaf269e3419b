"""Initial weights with the same bits on every CPU.

LAPACK's bits follow the CPU: its sums are in the order that suits vectors and cache.  Here a sum is
taken row by row, or it is exact, so that its order does not matter.
"""

from __future__ import annotations

import numpy as np

# Columns that are reduced one by one, before all others together.  A matrix of H = 1024 takes 0.7 s
# of one core, 0.12 s by LAPACK; 64 columns take as long.  H = 64: 1.7 ms.
WIDE = 32


def draw_uniform(rng: np.random.Generator, limit: float, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of float64, uniform from -limit to limit.

    They are those of ``rng.uniform``, which fuses the multiplication and the addition on some CPUs.
    """
    return rng.random(shape) * (2 * limit) - limit


def draw_orthogonal(rng: np.random.Generator, size: int) -> np.ndarray:
    """A matrix (H, H) of float64, uniform over the orthogonal matrices.

    Q of a Gaussian matrix is, once R's diagonal is positive (Mezzadri 2007).
    """
    # One number in 4000, in the tails, is computed with the C library's logarithm, whose last bit
    # is not the same everywhere: rounding to multiples of 2**-40 removes it.
    return orthogonalize(np.rint(np.ldexp(rng.standard_normal((size, size)), 40)) * 2.0**-40)


def orthogonalize(A: np.ndarray) -> np.ndarray:
    """Q of A = Q R with a positive diagonal of R, by Householder's reflections in blocks.

    A block of reflections is I - V S^T V^T with a triangular S (Schreiber and Van Loan 1989).

    Parameters
    ----------
    A : ndarray of float64, (H, H)
        Regular.

    Returns
    -------
    ndarray of float64, (H, H)
    """
    R, signs, blocks = A.copy(), np.empty(len(A)), []
    for first in range(0, len(A), WIDE):
        here, rest = slice(first, first + WIDE), slice(first + WIDE, None)
        V, S, signs[here] = _reflect(R[first:, here].copy())
        R[first:, rest] -= product(V, product(S, product(V.T, R[first:, rest])))
        blocks.append((first, V, S))
    Q = np.eye(len(A))
    for first, V, S in reversed(blocks):  # what is left of, and above, is still that of I
        Q[first:, first:] -= product(V, product(S.T, product(V.T, Q[first:, first:])))
    return Q * signs


def _reflect(P: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make a panel (N, W) triangular in place, W <= N: V (N, W), S (W, W) and R's signs (W,)."""
    wide = P.shape[1]
    V, S, signs = np.zeros_like(P), np.zeros((wide, wide)), np.empty(wide)
    for k in range(wide):
        # v = a - r e_k for the column a; I - s v v^T makes it r e_k.  Sums are along the first
        # axis, which NumPy adds row by row.
        v = P[k:, k].copy()
        sums = np.add.reduce(v[:, np.newaxis] * P[k:], axis=0)  # a^T P
        r = -np.copysign(np.sqrt(sums[k]), v[0])
        s = 1 / (r * (r - v[0]))  # 2 / v^T v
        sums -= r * P[k]
        v[0] -= r
        P[k:] -= v[:, np.newaxis] * (s * sums)
        angles = np.add.reduce(v[:, np.newaxis] * V[k:], axis=0)  # v^T V
        S[k] = -s * np.add.reduce(S * angles[:, np.newaxis], axis=0)
        S[k, k], V[k:, k], signs[k] = s, v, np.copysign(1.0, r)
    return V, S, signs


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """A matrix product in float64, accurate for elements that are not far below the largest.

    Each factor is cut into three of so few bits that a product of two has no rounding errors, in
    whichever order BLAS adds it up (Ozaki, Ogita, Oishi and Rump 2012).  What is left out is below
    2**-60 K times the largest elements.

    Parameters
    ----------
    a, b : ndarray, (M, K) and (K, N)

    Returns
    -------
    ndarray of float64, (M, N)
    """
    bits = (53 - len(b).bit_length()) // 2  # K products of 2 * bits each
    (a1, a2, a3), (b1, b2, b3) = _cut(a, bits), _cut(b, bits)
    return ((a1 @ b3 + a2 @ b2) + a3 @ b1) + (a1 @ b2 + a2 @ b1) + a1 @ b1


def _cut(a: np.ndarray, bits: int) -> list[np.ndarray]:
    """Three arrays whose sum is `a`, each of integers up to 2**bits in a unit of its own."""
    a, parts = a.astype(np.float64), []
    unit = np.ldexp(1.0, np.frexp(np.abs(a).max(initial=0))[1])
    for _ in range(3):
        unit = np.ldexp(unit, -bits)
        parts.append(np.rint(a / unit) * unit)
        a = a - parts[-1]
    return parts
