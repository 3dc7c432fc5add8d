"""Spectra against published exponents, float64 twins and cases by hand."""

import numpy as np
import pytest

from cassle_jax.errors import UserError
from cassle_jax.evaluation import spectrum


@pytest.mark.parametrize(
  "case", ["n512_a1", "n600_a0.6", "n64_a1.5", "n128_noise"]
)
def test_power_law_equals_the_published_fit(golden, case):
  arrays = golden("powerlaw")
  eigenvalues = arrays[f"{case}/ss"]
  found = spectrum.power_law(eigenvalues)
  np.testing.assert_allclose(found.alpha, arrays[f"{case}/alpha"], atol=1e-7)
  np.testing.assert_allclose(found.r2, arrays[f"{case}/r2_100"], atol=1e-7)
  rank = np.arange(1, len(eigenvalues) + 1)
  np.testing.assert_allclose(
    found.scale * rank**-found.alpha, arrays[f"{case}/ypred"], rtol=1e-6
  )


def test_spectrum_equals_numpys_decompositions():
  draw = np.random.default_rng(0)
  for shape in ((200, 70), (40, 70)):
    features = draw.normal(size=shape) * np.arange(1, 71) ** -0.7 + 0.3
    found = spectrum.measure(features.astype(np.float32))
    features = features.astype(np.float32).astype(np.float64)
    singular = np.linalg.svd(features - features.mean(0), compute_uv=False)
    expected = singular**2 / np.sum(singular**2)
    expected[expected < 1e-20] = 0  # Centring 40 images leaves 39 dimensions.
    assert found.eigenvalues.shape == (min(shape),)
    np.testing.assert_allclose(found.eigenvalues, expected, atol=1e-12)
    np.testing.assert_allclose(
      found.power_law.alpha, spectrum.power_law(expected).alpha, rtol=1e-8
    )
    share = np.linalg.svd(features, compute_uv=False)
    share = share / share.sum() + 1e-7  # The paper's own epsilon.
    expected = np.exp(-np.sum(share * np.log(share)))
    np.testing.assert_allclose(found.rank_me, expected, rtol=1e-4)


def test_rank_me_by_hand():
  # Equal singular values: the rank. One direction: 1.
  assert spectrum.rank_me(5 * np.eye(7)) == pytest.approx(7)
  line = np.outer(np.arange(1, 31), np.arange(1, 21)).astype(np.float32)
  assert spectrum.rank_me(line) == pytest.approx(1, abs=1e-6)
  # Shares 3/4 and 1/4.
  expected = np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))
  assert spectrum.rank_me(np.diag([3.0, -1.0])) == pytest.approx(expected)


def test_neither_scale_nor_order_of_the_images_matters():
  draw = np.random.default_rng(1)
  features = draw.normal(size=(90, 60))
  a = spectrum.measure(features)
  b = spectrum.measure(100 * features[draw.permutation(90)])
  np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=1e-9)
  assert a.power_law.alpha == pytest.approx(b.power_law.alpha)
  assert a.rank_me == pytest.approx(b.rank_me)


def test_short_and_degenerate_spectra():
  draw = np.random.default_rng(2)
  few = spectrum.measure(draw.normal(size=(50, 6)))
  assert np.isnan(few.power_law.alpha) and 1 < few.rank_me <= 6
  # Rank 10 in 40 dimensions: the zeros beyond are not fitted.
  flat = draw.normal(size=(80, 10)) @ draw.normal(size=(10, 40))
  found = spectrum.measure(flat)
  assert np.count_nonzero(found.eigenvalues) == 10
  assert 0 < found.power_law.alpha < 5
  with pytest.raises(UserError, match="at least 2 images, got 1"):
    spectrum.measure(np.ones((1, 4)))
  with pytest.raises(UserError, match="collapsed"):
    spectrum.measure(np.ones((5, 4)))
