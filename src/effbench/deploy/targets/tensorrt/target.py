"""What the two TensorRT targets share: their default precision, what they refuse, and the range of input shapes."""

from __future__ import annotations

from collections.abc import Mapping

from effbench.deploy import Target


class EngineTarget(Target):
    """A runtime that builds engines with TensorRT's builder."""

    precision = "fp16"
    options: Mapping[str, str] = {
        "batch": "smallest:usual:largest batch of a graph whose batch is open; default 1:1:8",
        "size": "smallest:usual:largest height and width of a graph whose image size is open",
    }
    refuses: Mapping[str, str] = {"a16w8": "TensorRT has no 16-bit integers"}
