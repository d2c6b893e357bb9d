"""The heavy half of quantizing within a bound, in a child process: how much each block suffers from int8.

``python -m effbench.api.quantize.worker`` reads one job from standard input and answers in JSON lines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from effbench.deploy.artifact import bundle
from effbench.deploy.artifact.feeding import images_in
from effbench.deploy.graph import onnx_file


def sensitivity(job: dict[str, Any], emit: Any) -> None:
    """Emit each block with the divergence that int8 in it alone brings: mean KL from the fp32 answers, in nats."""
    from effbench.data import open_dataset, pixels
    from effbench.deploy.precision.mix import blocks, mixed, quantized
    from effbench.profiles.accuracy import score_output

    source = bundle.load(Path(job["graph"]))
    model, int8 = onnx_file.load(source.path), onnx_file.load(bundle.load(Path(job["int8"])).path)
    names = quantized(int8)
    emit({"event": "stage", "stage": "sensitivity: read images"})
    data = open_dataset(job["data"], job["classes"])
    spec, output = source.image_input(), score_output(source.outputs, source.name).name
    size, channels = source.subject.shapes.pixels, spec.channels
    items = [data.items[index] for index in job["images"]]
    images = np.stack([pixels.read(one.read(), one.name, size, source.preprocessing, channels) for one in items])
    tensors = images_in(images, spec, source.preprocessing)
    batch = spec.shape[0] or 1
    feeds = [tensors[start : start + batch] for start in range(0, len(tensors) // batch * batch, batch)]
    expected = _log_probabilities(model, spec.name, output, feeds)
    for block in blocks(model, names):
        emit({"event": "stage", "stage": f"sensitivity of block {block.name}"})
        alone = mixed(model, int8, set(names) - set(block.nodes))
        actual = _log_probabilities(alone, spec.name, output, feeds)
        divergence = float((np.exp(expected) * (expected - actual)).sum(axis=1).mean())
        emit(
            {
                "event": "block",
                "name": block.name,
                "nodes": list(block.nodes),
                "macs": block.macs,
                "divergence": divergence,
            }
        )


def _log_probabilities(model: Any, name: str, output: str, feeds: list[Any]) -> Any:
    from effbench.deploy.graph.run_ort import runner
    from effbench.profiles.accuracy import log_probabilities

    run = runner(model)
    scores = np.concatenate([run({name: feed})[output] for feed in feeds])
    return log_probabilities(np.asarray(scores, np.float64))


HANDLERS = {"sensitivity": sensitivity}

if __name__ == "__main__":
    from effbench.process import serve

    serve(HANDLERS)
