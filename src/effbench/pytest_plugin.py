"""A pytest fixture for a latency gate: ``latency_gate("package.module:factory")`` fails with the table of verdicts.

The base is ``--latency-base``, else the ini value ``latency_base``. Without either the test is skipped.
"""

from __future__ import annotations

from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options for the base, the time and inconclusive verdicts."""
    group = parser.getgroup("effbench", "latency gate")
    group.addoption("--latency-base", metavar="REF", help="git ref that latency_gate compares the working tree with")
    group.addoption("--latency-budget", type=float, metavar="SECONDS", help="per model (default: the suite's, or 60)")
    group.addoption(
        "--latency-strict", action="store_true", help="fail instead of skipping if a verdict is inconclusive"
    )
    parser.addini("latency_base", "git ref that latency_gate compares the working tree with")


class LatencyGate:
    """Compares models of the working tree with the base."""

    def __init__(self, config: pytest.Config) -> None:
        self._base = config.getoption("--latency-base") or config.getini("latency_base") or None
        self._budget = config.getoption("--latency-budget")
        self._strict = bool(config.getoption("--latency-strict"))
        self._folder = config.rootpath

    def __call__(self, *models: str, **options: Any) -> Any:
        """Run the gate and return its report; fail on *slower* or a missed budget, skip if it is inconclusive.

        Args:
            models: ``package.module:factory`` or .onnx files; none means the suite of ``effbench.toml``.
            options: The arguments of `effbench.gate`.
        """
        __tracebackhide__ = True
        from effbench.api.compare.run_gate import gate
        from effbench.reports.gate.text import headline, terminal

        if "baseline" not in options:
            options.setdefault("base", self._base)
            if options["base"] is None:
                pytest.skip("no base to compare with: give --latency-base REF, or latency_base in the ini file")
        if self._budget is not None:
            options["budget_s"] = self._budget
        report = gate(models, folder=self._folder, **options)
        code = report.exit_code()
        if code == 3 and not self._strict:
            pytest.skip(f"latency gate: {headline(report)}\n{terminal(report)}")
        if code:
            pytest.fail(f"latency gate: {headline(report)}\n{terminal(report)}", pytrace=False)
        return report


@pytest.fixture
def latency_gate(request: pytest.FixtureRequest) -> LatencyGate:
    """Compare the latency of models in the working tree with a base: ``latency_gate("package.module:factory")``."""
    return LatencyGate(request.config)
