import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastsynth.noise import fractal_noise, gradient_noise, standardise, white_noise

shapes = st.tuples(st.integers(1, 70), st.integers(1, 70))
cells = st.tuples(st.floats(0.5, 12), st.floats(0.5, 12))


@settings(max_examples=60, deadline=None)
@given(shape=shapes, cells=cells, seed=st.integers(0, 2**32))
def test_gradient_noise_is_bounded_and_repeats_with_the_seed(shape, cells, seed):
    first, second = (gradient_noise(shape, cells=cells, rng=np.random.default_rng(seed)) for _ in range(2))
    assert first.shape == shape
    assert first.dtype == np.float32
    assert np.abs(first).max() <= 1 + 1e-5
    np.testing.assert_array_equal(first, second)


def test_gradient_noise_is_zero_on_the_lattice():
    noise = gradient_noise((32, 48), cells=(4, 6), rng=np.random.default_rng(0))
    np.testing.assert_allclose(noise[::8, ::8], 0, atol=1e-6)


def test_gradient_noise_has_mean_zero_over_many_draws():
    rng = np.random.default_rng(0)
    assert np.mean([gradient_noise((32, 32), cells=(4, 4), rng=rng) for _ in range(200)]) == pytest.approx(0, abs=0.02)


def test_more_cells_make_finer_noise():
    def roughness(count):
        noise = standardise(gradient_noise((128, 128), cells=(count, count), rng=np.random.default_rng(1)))
        return np.abs(np.diff(noise, axis=0)).mean()

    assert roughness(2) < roughness(8) < roughness(32)


@pytest.mark.parametrize("octaves", [1, 3, 5])
def test_fractal_noise_is_standardised(octaves):
    noise = fractal_noise((64, 80), cells=(2, 3), octaves=octaves, rng=np.random.default_rng(0))
    assert noise.shape == (64, 80)
    assert noise.mean() == pytest.approx(0, abs=1e-5)
    assert noise.std() == pytest.approx(1, abs=1e-4)


def test_blur_goes_along_its_own_axis():
    noise = white_noise((100, 100), blur=(4, 0), rng=np.random.default_rng(0))
    along_y, along_x = np.abs(np.diff(noise, axis=0)).mean(), np.abs(np.diff(noise, axis=1)).mean()
    assert along_y < 0.5 * along_x
    assert noise.std() == pytest.approx(1, abs=1e-4)


def test_a_constant_field_becomes_zero():
    np.testing.assert_array_equal(standardise(np.full((5, 6), 3.0)), 0)
