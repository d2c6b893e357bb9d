"""The fit of a + b N**p recovers known laws, its interval covers, and its misfit shows other laws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st

from effbench.errors import UsageError
from effbench.reports.growth import Series, fit, growth, ratio
from effbench.reports.scaling import draw_series, exponent, macs_exponent, table

PX = (128, 192, 256, 384, 512, 704, 1024)
N = [float(px * px) for px in PX]


def law(a: float, b: float, p: float) -> list[float]:
    return [a + b * (n / N[-1]) ** p for n in N]


@seed(0)
@settings(max_examples=60, deadline=None)
@given(st.floats(0, 0.3), st.floats(0.5, 2.5))
def test_the_parameters_of_a_known_law_are_recovered(a: float, p: float):
    fitted = fit(N, law(a, 7.0, p))
    assert p == pytest.approx(fitted.p, abs=2e-3)
    assert a == pytest.approx(fitted.a, abs=2e-3)
    assert fitted.misfit < 1e-3


def test_linear_and_quadratic_growth_are_distinguished():
    assert 1.0 == pytest.approx(fit(N, N).p, abs=1e-3)
    # Linear projections plus quadratic products grow between the two and follow no power law.
    mixed = [n / N[-1] + (n / N[-1]) ** 2 for n in N]
    assert 1.1 < fit(N, mixed).p < 1.9
    assert fit(N, mixed).misfit > 0.01


def test_constant_values_are_fitted_as_a_constant():
    fitted = fit(N, [3.0] * len(N))
    assert 3.0 == pytest.approx(fitted.a + fitted.b)
    assert fitted.misfit < 1e-6


def noisy(generator: np.random.Generator, p: float, passes: int) -> list[list[float]]:
    """Return passes of a law with scatter: 3 % between passes and 2 % between single values."""
    truth = np.array(law(0.05, 7.0, p))
    scale = np.exp(0.03 * generator.standard_normal((passes, 1)) + 0.02 * generator.standard_normal((passes, len(N))))
    return (truth * scale).tolist()


@pytest.mark.parametrize("p", [1.0, 1.8])
def test_the_interval_covers(p: float):
    generator = np.random.default_rng(0)
    spans = [growth(N, noisy(generator, p, 8)).interval for _ in range(60)]
    inside = sum(low <= p <= high for low, high in spans)
    assert inside >= 53
    # The intervals are also narrow.
    assert np.median([high - low for low, high in spans]) < 0.12


def test_five_passes_give_no_interval():
    result = growth(N, noisy(np.random.default_rng(1), 1.0, 5))
    assert (None, 5) == (result.interval, result.passes)
    assert f"{result.law.p:.2f}" == exponent(result)


def test_a_ratio_of_rounds():
    middle, span = ratio(np.log([0.9, 0.91, 0.89, 0.9, 0.92, 0.88]).tolist())
    assert 0.9 == pytest.approx(middle, abs=0.01)
    assert span[0] < 0.9 < span[1]
    assert ratio([0.0, 0.1])[1] is None


@pytest.mark.parametrize(("pixels", "values"), [(N[:3], [1.0, 2.0, 3.0]), (N, [0.0, *N[1:]]), (N, N[:-1])])
def test_too_few_sizes_and_values_not_above_zero_are_refused(pixels: list[float], values: list[float]):
    with pytest.raises(UsageError):
        fit(pixels, values)


def series(name: str, p: float, passes: int = 6) -> Series:
    values = tuple(map(tuple, noisy(np.random.default_rng(2), p, passes)))
    macs = tuple(px**2 * 10 if p == 1 else px**4 for px in PX)
    return Series(name, "ort", "O(N)", PX, macs, values, values, "B", {2048: "out of memory"})


def test_macs_are_exactly_linear_or_have_an_exponent():
    assert "1 exactly" == macs_exponent(series("linear", 1))
    assert "2.00 at the end" == macs_exponent(series("quadratic", 2))
    linear = series("linear", 1)
    almost_linear = Series(
        linear.name, linear.target, linear.order, linear.px, (*linear.macs[:-1], linear.macs[-1] + 1), (), ()
    )
    assert not almost_linear.exactly_linear


def test_the_table_shows_exponents_and_missing_sizes():
    text = table([series("linear", 1.0), series("quadratic", 2.0)])
    assert "linear at 2048 px on ort: out of memory" in text
    assert "1 exactly" in text


def test_equal_series_give_equal_plots(tmp_path):
    pytest.importorskip("matplotlib")
    all_series = [series(f"mixer-{index}", 1 + index / 10) for index in range(9)]
    first = [path.read_bytes() for path in draw_series(all_series, tmp_path, "a")]
    second = [path.read_bytes() for path in draw_series(all_series, tmp_path, "b")]
    assert first == second
    assert b"<svg" in first[0]
