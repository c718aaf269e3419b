"""Initial weights: as LAPACK and NumPy draw them, but without what follows the CPU."""

from fractions import Fraction

import numpy as np
import pytest

from fastbptt import _draws

SIZES = pytest.mark.parametrize("size", [1, 2, 31, 32, 33, 64, 200])  # edges of blocks


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


@SIZES
def test_q_is_that_of_lapack_but_for_signs(size):
    A = draw(size, size)
    Q, R = np.linalg.qr(A)
    got = _draws.orthogonalize(A)
    # The columns' errors grow with the condition number.
    atol = 1e-15 * max(np.linalg.cond(A), 10)
    np.testing.assert_allclose(got, Q * np.sign(np.diagonal(R)), rtol=0, atol=atol)


@SIZES
def test_it_is_orthogonal(size):
    Q = _draws.draw_orthogonal(np.random.default_rng(1), size)
    np.testing.assert_allclose(Q.T @ Q, np.eye(size), rtol=0, atol=1e-14)


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_orthogonalize_at_any_scale(scale):
    A = draw(40, 40)
    got, expected = _draws.orthogonalize(scale * A), _draws.orthogonalize(A)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12)


def test_what_is_orthogonal_stays():
    Q = _draws.draw_orthogonal(np.random.default_rng(2), 70)
    np.testing.assert_allclose(_draws.orthogonalize(Q), Q, rtol=0, atol=1e-14)


def test_orthogonal_matrices_are_drawn_from_normal_numbers():
    """The same as QR of what the generator would give next, to the rounding of 2**-40."""
    got = _draws.draw_orthogonal(np.random.default_rng(3), 20)
    Q, R = np.linalg.qr(draw(20, 20, seed=3))
    np.testing.assert_allclose(got, Q * np.sign(np.diagonal(R)), rtol=0, atol=1e-10)


def test_uniform_numbers_are_those_of_the_generator():
    got = _draws.draw_uniform(np.random.default_rng(4), 0.3, (50, 20))
    expected = np.random.default_rng(4).uniform(-0.3, 0.3, (50, 20))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-16)


def test_a_product_of_whole_fractions():
    a, b = draw(4, 100), draw(100, 3, seed=1)
    exact = [[sum(Fraction(x) * Fraction(y) for x, y in zip(r, c, strict=True)) for c in b.T]
             for r in a]  # fmt: skip
    np.testing.assert_allclose(_draws.product(a, b), np.array(exact, float), rtol=0, atol=4e-15)


def test_the_order_of_a_products_sums_does_not_matter():
    a, b = draw(30, 500), draw(500, 40, seed=1)
    order = np.random.default_rng(2).permutation(500)
    assert (a[:, order] @ b[order] != a @ b).any()
    np.testing.assert_array_equal(_draws.product(a[:, order], b[order]), _draws.product(a, b))
