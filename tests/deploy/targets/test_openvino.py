"""What OpenVINO says when it refuses a graph."""

import pytest

from effbench.deploy.targets.openvino import reason


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "Exception from src/inference/src/cpp/core.cpp:84:\nCheck 'false' failed at src/frontends/report.cpp:151:\n"
            "Model wasn't fully converted.\n-- No conversion rule found for operations: own.Nonsense\n\n",
            "Model wasn't fully converted. -- No conversion rule found for operations: own.Nonsense",
        ),
        ("Cannot open model.xml", "Cannot open model.xml"),
        ("Exception from src/a.cpp:1:\n", "Exception from src/a.cpp:1:"),
        ("", "RuntimeError"),
    ],
)
def test_the_reason_is_in_its_later_lines(message: str, expected: str):
    assert expected == reason(RuntimeError(message))
