"""Graphs with structural faults: each export has to end with a sentence, in time, and with the right exit code.

    python benchmarks/mutated_graphs.py                        the 500 seeds
    python benchmarks/mutated_graphs.py --seeds 17 18          some of them
    python benchmarks/mutated_graphs.py --cache FOLDER         files of third_party.py as sources, too

A seed decides which graph is taken (`tests/support/field_models.py`, or a small file of `third_party.py` from its
cache) and which one to three mutations it gets. The export to ONNX Runtime and OpenVINO runs as a user's does, except
that its stages run in one process, forked for each seed: importing torch for every stage would take most of the time.
A seed that ends with an exception of another class than effbench's is a *crash*, one that takes more than 60 s a
*hang*. Exit code 1 says that two engines or runtimes differ, or that an output is NaN: those cells are listed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

SUPPORT = Path(__file__).resolve().parents[1] / "tests" / "support"
SEEDS = range(500)
LIMIT_S = 60.0
LARGEST_BYTES = 700_000
TARGETS = ("ort", "ov")

Mutation = Callable[[ModelProto, random.Random], None]


def _node(model: ModelProto, rng: random.Random) -> Any:
    return rng.choice(model.graph.node)


def drop_node(model: ModelProto, rng: random.Random) -> None:
    model.graph.node.remove(_node(model, rng))


def repeat_node(model: ModelProto, rng: random.Random) -> None:
    model.graph.node.append(_node(model, rng))


def swap_inputs(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    node.input[:] = list(node.input)[::-1]


def drop_input(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.input:
        node.input.pop()


def blank_input(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.input:
        node.input[rng.randrange(len(node.input))] = ""


def add_input(model: ModelProto, rng: random.Random) -> None:
    _node(model, rng).input.append(rng.choice([*(t.name for t in model.graph.initializer), "absent"]))


def other_operator(model: ModelProto, rng: random.Random) -> None:
    _node(model, rng).op_type = rng.choice([*(node.op_type for node in model.graph.node), "Relu", "Loop", "NoSuch"])


def other_domain(model: ModelProto, rng: random.Random) -> None:
    _node(model, rng).domain = rng.choice(["ai.onnx", "com.microsoft", "own"])


def drop_attribute(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.attribute:
        node.attribute.pop(rng.randrange(len(node.attribute)))


def other_attribute(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    for attribute in node.attribute:
        if attribute.ints:
            attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice([-1, 0, 7, 1 << 40])
        else:
            attribute.i = rng.choice([-1, 0, 2, 1 << 40])


def unknown_attribute(model: ModelProto, rng: random.Random) -> None:
    _node(model, rng).attribute.append(helper.make_attribute("strange", rng.choice([1, 2.5, "text"])))


def drop_initializer(model: ModelProto, rng: random.Random) -> None:
    if model.graph.initializer:
        model.graph.initializer.remove(rng.choice(model.graph.initializer))


def cut_initializer(model: ModelProto, rng: random.Random) -> None:
    if model.graph.initializer:
        tensor = rng.choice(model.graph.initializer)
        tensor.raw_data = tensor.raw_data[: len(tensor.raw_data) // 2]


def other_dims(model: ModelProto, rng: random.Random) -> None:
    if model.graph.initializer:
        tensor = rng.choice(model.graph.initializer)
        tensor.dims[:] = rng.choice([list(tensor.dims)[::-1], [], [0], [-1], [*tensor.dims, 1]])


def other_type(model: ModelProto, rng: random.Random) -> None:
    if model.graph.initializer:
        rng.choice(model.graph.initializer).data_type = rng.choice([1, 6, 7, 10, 11, 16, 99])


def other_input_type(model: ModelProto, rng: random.Random) -> None:
    value = rng.choice(model.graph.input)
    value.type.tensor_type.elem_type = rng.choice([0, 2, 6, 7, 8, 9, 10, 11, 16])


def open_shape(model: ModelProto, rng: random.Random) -> None:
    dims = rng.choice(model.graph.input).type.tensor_type.shape.dim
    if dims:
        dims[rng.randrange(len(dims))].dim_value = rng.choice([0, -1, 1, 5, 1 << 40])


def no_shape(model: ModelProto, rng: random.Random) -> None:
    rng.choice([*model.graph.input, *model.graph.output]).type.tensor_type.ClearField("shape")


def no_type(model: ModelProto, rng: random.Random) -> None:
    rng.choice([*model.graph.input, *model.graph.output]).ClearField("type")


def other_opset(model: ModelProto, rng: random.Random) -> None:
    model.opset_import[0].version = rng.choice([1, 7, 9, 11, 13, 18, 22, 99])


def old_ir(model: ModelProto, rng: random.Random) -> None:
    model.ir_version = rng.choice([1, 3, 99])


def shuffle_nodes(model: ModelProto, rng: random.Random) -> None:
    nodes = list(model.graph.node)
    rng.shuffle(nodes)
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def circle(model: ModelProto, rng: random.Random) -> None:
    first, last = model.graph.node[0], model.graph.node[-1]
    if first.input and last.output:
        first.input[0] = last.output[0]


def rename_tensor(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.output:
        node.output[0] = rng.choice(["", "a b/c:0", "\N{GREEK SMALL LETTER ALPHA}", "x" * 3000, "../x"])


def repeat_output(model: ModelProto, rng: random.Random) -> None:
    model.graph.output.append(rng.choice(model.graph.output))


def inner_output(model: ModelProto, rng: random.Random) -> None:
    node = _node(model, rng)
    if node.output:
        model.graph.output.append(onnx.ValueInfoProto(name=node.output[0]))


def drop_outputs(model: ModelProto, rng: random.Random) -> None:
    model.graph.output.pop()


def extra_input(model: ModelProto, rng: random.Random) -> None:
    shape: list[Any] = rng.choice([[], [1, 4], ["n"]])
    model.graph.input.append(helper.make_tensor_value_info("unread", TensorProto.FLOAT, shape))


def randomness(model: ModelProto, rng: random.Random) -> None:
    source = model.graph.output[0].name
    model.graph.node.append(helper.make_node("RandomNormalLike", [source], ["noise"]))
    model.graph.output.append(onnx.ValueInfoProto(name="noise"))


def undefined(model: ModelProto, rng: random.Random) -> None:
    source = model.graph.output[0].name
    model.graph.node.append(helper.make_node("Sub", [source, source], ["zero"]))
    model.graph.node.append(helper.make_node("Div", ["zero", "zero"], ["undefined"]))
    model.graph.output[0].name = "undefined"


MUTATIONS: tuple[Mutation, ...] = (
    drop_node, repeat_node, swap_inputs, drop_input, blank_input, add_input, other_operator, other_domain,
    drop_attribute, other_attribute, unknown_attribute, drop_initializer, cut_initializer, other_dims, other_type,
    other_input_type, open_shape, no_shape, no_type, other_opset, old_ir, shuffle_nodes, circle, rename_tensor,
    repeat_output, inner_output, drop_outputs, extra_input, randomness, undefined,
)  # fmt: skip


def mutated(seed: int, sources: Mapping[str, Callable[[], ModelProto]]) -> tuple[ModelProto, str]:
    """Return the graph of a seed, and what was done to it."""
    rng = random.Random(seed)
    importlib.import_module("field_models").RNG = np.random.default_rng(seed)  # type: ignore[attr-defined]
    name = rng.choice(sorted(sources))
    model, done = sources[name](), []
    for mutation in rng.choices(MUTATIONS, k=rng.choice([1, 1, 2, 3])):
        # After an earlier mutation there may be no node or output left to change.
        with contextlib.suppress(IndexError):
            mutation(model, rng)
            done.append(mutation.__name__)
    return model, f"{name}: {', '.join(done)}"


def all_sources(cache: Path | None) -> dict[str, Callable[[], ModelProto]]:
    """Return the graphs to start from, by name."""
    sys.path.insert(0, str(SUPPORT))
    field_models: Any = importlib.import_module("field_models")

    files = sorted(cache.glob("files/*/*.onnx")) if cache else []
    small = [path for path in files if path.stat().st_size < LARGEST_BYTES]
    return {**field_models.MODELS, **{path.stem: functools.partial(onnx.load, path) for path in small}}


@contextlib.contextmanager
def in_one_process() -> Iterator[None]:
    """Run the stages of an export in this process; an exception of another class passes through."""
    from effbench import process
    from effbench.errors import EffbenchError

    def run(module: str, job: Mapping[str, Any], **_: Any) -> Iterator[dict[str, Any]]:
        events: list[dict[str, Any]] = []
        handlers = importlib.import_module(module).HANDLERS
        try:
            handlers[job["op"]](json.loads(json.dumps(job)), events.append)
        except MemoryError as error:  # as `process.serve` reports it
            raise EffbenchError(f"{job['op']} ran out of memory") from error
        yield from (event for event in events if event["event"] not in ("done", "stage"))

    with mock.patch.object(process, "run", run):
        yield


def export(model: ModelProto, folder: Path) -> dict[str, Any]:
    """Return how the export of a graph ends."""
    import effbench
    from effbench.errors import EffbenchError

    path = folder / "mutated.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        cells = effbench.export(str(path), list(TARGETS), out=folder / "runs", reduce_s=0)
    except EffbenchError as error:
        return {"ends": [f"refused {error.exit_code}"], "reasons": [error.message]}
    return {
        "ends": [f"{cell.status} {cell.exit_code}" for cell in cells],
        "reasons": [cell.reason for cell in cells],
        "exit_codes": [cell.exit_code for cell in cells],
    }


def forked(seed: int, sources: Mapping[str, Callable[[], ModelProto]]) -> dict[str, Any]:
    """Run one seed in a process of its own, and return how it ended."""
    reader, writer = os.pipe()
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        what = ""
        try:
            model, what = mutated(seed, sources)
            with tempfile.TemporaryDirectory() as folder, in_one_process():
                answer = {"what": what, **export(model, Path(folder))}
        except BaseException as error:  # noqa: BLE001 - what a child raises is its result
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = f"{type(error).__name__}: {error}"[:300]
            answer = {"what": what, "ends": ["crash"], "reasons": [f"{text} ({place.filename}:{place.lineno})"]}
        os.write(writer, json.dumps(answer).encode()[:60_000])
        os._exit(0)
    os.close(writer)
    ready, _, _ = select.select([reader], [], [], LIMIT_S)
    content = b""
    if ready:
        while chunk := os.read(reader, 1 << 16):
            content += chunk
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(child, 0)
    ended = {"ends": ["hang"], "reasons": [""]} if not ready else {"ends": ["crash"], "reasons": [f"status {status}"]}
    with contextlib.suppress(ValueError):
        ended = json.loads(content)
    return {"seed": seed, "seconds": round(time.monotonic() - start, 1), **ended}


def main() -> None:
    """Run the seeds, and print how they ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS))
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    import onnxruntime  # noqa: F401
    import torch

    import effbench.api.export.worker
    import effbench.device.agent  # noqa: F401

    torch.set_num_threads(1)
    sources = all_sources(options.cache)
    ends: Counter[str] = Counter()
    longest = (0.0, -1)
    for seed in options.seeds:
        ended = forked(seed, sources)
        ends.update(ended["ends"])
        longest = max(longest, (ended["seconds"], seed))
        if options.verbose or {"crash", "hang"} & set(ended["ends"]) or 1 in ended.get("exit_codes", ()):
            what = ended.get("what") or mutated(seed, sources)[1]
            reasons = dict.fromkeys(filter(None, ended["reasons"]))
            print(f"{seed} {what}: {', '.join(ended['ends'])}; {'; '.join(reasons)[:400]}", flush=True)
    counts = ", ".join(f"{count} {end}" for end, count in ends.most_common())
    print(f"{len(options.seeds)} seeds, {len(sources)} graphs: {counts}")
    print(f"the longest took {longest[0]} s (seed {longest[1]})")
    sys.exit(bool(ends["crash"] or ends["hang"]))


if __name__ == "__main__":
    main()
