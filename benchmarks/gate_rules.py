"""The decision rules of other tools, for a comparison on the same traces.

Each takes the wall times of both sides, in nanoseconds, pooled over all rounds of a run, and returns ``slower``,
``faster`` or ``unchanged``. Thresholds are those of the tools' documentation, named in each docstring.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def ratio_of_means(a: Floats, b: Floats) -> str:
    """Fail when the mean is more than 10 % above. Source: pytest-benchmark, --benchmark-compare-fail=mean:10%."""
    return _beyond(float(b.mean() / a.mean()), 1.10)


def alert(a: Floats, b: Floats) -> str:
    """Alert at 200 %. Source: github-action-benchmark, README, alert-threshold."""
    return _beyond(float(b.mean() / a.mean()), 2.0)


def mann_whitney(a: Floats, b: Floats) -> str:
    """Two-sided U test, p < .05. Source: Google Benchmark, tools/compare.py, U test."""
    from scipy import stats

    if stats.mannwhitneyu(a, b, alternative="two-sided").pvalue >= 0.05:
        return "unchanged"
    return "slower" if np.median(b) > np.median(a) else "faster"


def welch(a: Floats, b: Floats) -> str:
    """Welch's t-test, two-sided, p < .05. Source: pyperf compare_to, is_significant (Student's t at 95 %)."""
    from scipy import stats

    if stats.ttest_ind(a, b, equal_var=False).pvalue >= 0.05:
        return "unchanged"
    return "slower" if b.mean() > a.mean() else "faster"


def bootstrap(a: Floats, b: Floats, draws: int = 200) -> str:
    """Bootstrap interval of the relative change of means wholly beyond 1 %. Source: criterion.rs, noise_threshold."""
    rng = np.random.default_rng(0)
    left = a[rng.integers(0, len(a), (draws, len(a)))].mean(axis=1)
    right = b[rng.integers(0, len(b), (draws, len(b)))].mean(axis=1)
    low, high = np.quantile(right / left - 1, [0.025, 0.975])
    return "slower" if low > 0.01 else "faster" if high < -0.01 else "unchanged"


def _beyond(ratio: float, limit: float) -> str:
    return "slower" if ratio > limit else "faster" if ratio < 1 / limit else "unchanged"


RULES: dict[str, Callable[[Floats, Floats], str]] = {
    "mean > 10 % (pytest-benchmark)": ratio_of_means,
    "200 % alert (github-action-benchmark)": alert,
    "Mann-Whitney p < .05 (Google Benchmark)": mann_whitney,
    "Welch t (pyperf)": welch,
    "bootstrap beyond 1 % (criterion)": bootstrap,
}
