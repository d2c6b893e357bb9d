"""Build a backbone with its weights as a module that is ready for export: fp32, eval mode, BatchNorms folded."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from effbench.boundary import isolation, quiet
from effbench.errors import DataError, UsageError
from effbench.models.exported_program import FACTORY as PROGRAM_FACTORY
from effbench.models.exported_program import ProgramModule
from effbench.models.initialise import initialise
from effbench.models.layers import evaluating, fuse
from effbench.models.user_code import user_code
from effbench.models.weights import check_weights_file
from effbench.schema import Backbone, Weights

EFFBENCH_FACTORIES, TIMM_FACTORIES = "effbench.models.", "effbench.models.timm_zoo:"
"""Prefixes of factories. Those of this package leave their weights to `initialise`; others set their own."""


_TRAINING_DIFFERS = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm, nn.RReLU)
"""Modules that compute something else in train mode."""


def build(backbone: Backbone, weights: Weights, state_path: Path | None = None) -> nn.Module:
    """Build a backbone with its weights, ready for export.

    Args:
        backbone: The backbone, whose factory is imported and called.
        weights: ``untrained`` with a seed, or ``file``.
        state_path: The safetensors file of ``file`` weights.

    Returns:
        The module in eval mode and fp32, with every BatchNorm folded for which that is exact.

    Raises:
        UsageError: The factory cannot be imported or called, or the weights are invalid.
        DataError: The tensors of the file do not match the model.
    """
    return fuse(build_unfused(backbone, weights, state_path))


def build_unfused(backbone: Backbone, weights: Weights, state_path: Path | None = None) -> nn.Module:
    """Build a backbone for training, with its BatchNorms; arguments and errors as in `build`."""
    return build_with_notes(backbone, weights, state_path)[0]


def build_with_notes(
    backbone: Backbone, weights: Weights, state_path: Path | None = None
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build as `build_unfused` does, and say what was changed of the module that the factory returned."""
    model = _weighted(backbone, weights, state_path)
    notes = tuple(_changes(model)) if backbone.family == "user" else ()
    return evaluating(model.float()), notes


def _changes(model: nn.Module) -> Iterator[str]:
    """Yield what a fp32 model in eval mode will do otherwise than the model that the factory returned."""
    modes = {type(item).__name__ for item in model.modules() if item.training and isinstance(item, _TRAINING_DIFFERS)}
    if modes:
        yield f"left in train mode ({', '.join(sorted(modes))}); evaluated in eval mode"
    types = {str(value.dtype).removeprefix("torch.") for value in model.parameters() if value.is_floating_point()}
    if types - {"float32"}:
        yield f"weights of {', '.join(sorted(types))}; computed in float32"


def _weighted(backbone: Backbone, weights: Weights, state_path: Path | None) -> nn.Module:
    if weights.kind == "pretrained":
        return _pretrained(backbone)
    whole = backbone.factory.startswith(PROGRAM_FACTORY)
    if weights.kind == "file" and state_path is None and not whole:
        raise UsageError("Weights of kind 'file' need a file.")
    seed = weights.seed or 0
    model = fresh(backbone, seed)
    if weights.kind == "file" and state_path is not None:
        load_state(model, state_path)
    elif backbone.factory.startswith(EFFBENCH_FACTORIES) and not whole and not _has_fixed_size(model):
        initialise(model, seed)
    return model


def _has_fixed_size(model: nn.Module) -> bool:
    """Return whether a timm model has a fixed input size; `initialise` cannot run it, and it keeps timm's weights."""
    return bool(getattr(model, "pretrained_cfg", {}).get("fixed_input_size"))


def _pretrained(backbone: Backbone) -> nn.Module:
    if not backbone.factory.startswith(TIMM_FACTORIES):
        raise UsageError(
            f"No pretrained weights are known for '{backbone.name}'.", hint="Give a file: --weights FILE.safetensors."
        )
    quiet.allow_downloads()
    model: nn.Module = load_factory(backbone.factory)(pretrained=True)
    return model


def fit_resolution(model: nn.Module, resolution: tuple[int, int]) -> tuple[str, ...]:
    """Resample, in place, the parameters that depend on the image size; return a note on each change.

    A model supports this with a method of this name. Others take any size, or fail when they run.
    """
    method = getattr(model, "fit_resolution", None)
    return tuple(method(resolution)) if callable(method) else ()


def fresh(backbone: Backbone, seed: int) -> nn.Module:
    """Build a backbone with the weights that its factory draws from a seed, for the start of a training.

    Raises:
        UsageError: The factory cannot be imported or called.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _call(load_factory(backbone.factory), backbone.factory)


def load_factory(import_string: str) -> Callable[..., Any]:
    """Import the callable that ``package.module:factory`` names, also from the current folder.

    Raises:
        UsageError: It is not of that form, its module cannot be imported, or the object is not callable.
        ConversionError: The module raises something else when it is imported.
    """
    module_name, _, attribute = import_string.partition(":")
    if not module_name or not attribute:
        raise UsageError(f"'{import_string}' is not a factory.", hint="Write it like package.module:factory.")
    isolation.import_also_from(str(Path.cwd()))
    with user_code(f"import of {module_name}"):
        try:
            factory = getattr(import_module(module_name), attribute, None)
        except ImportError as error:
            raise UsageError(
                f"Cannot import '{module_name}' for the factory '{import_string}': {error}.",
                hint="Install its package, or run in the folder that holds it.",
            ) from error
    if not callable(factory):
        problem = "has no" if factory is None else "has no callable"
        raise UsageError(
            f"Module '{module_name}' {problem} '{attribute}'.", hint="A factory returns a torch.nn.Module."
        )
    return factory  # type: ignore[no-any-return]


def _call(factory: Callable[..., Any], import_string: str) -> nn.Module:
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise UsageError(
            f"Cannot call the factory '{import_string}' without arguments: {error}.",
            hint="Wrap it in a function without parameters.",
        ) from error
    except ValueError:  # a callable of another language tells no signature
        pass
    with user_code(f"call of {import_string}"):
        model = factory()
    if isinstance(model, torch.export.ExportedProgram):
        return ProgramModule(model)
    if not isinstance(model, nn.Module):
        raise UsageError(f"The factory '{import_string}' returned a {type(model).__name__}, not a torch.nn.Module.")
    return model


def load_state(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into a model; the names and shapes of all tensors must match.

    Raises:
        UsageError: The file is a pickle, which can run code when it is read.
        DataError: The file cannot be read, or its tensors do not match the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    check_weights_file(path)
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: cannot be read as safetensors: {error}.") from error
    expected = model.state_dict()
    # BatchNorm's counter of batches plays no role in inference.
    required = {name for name in expected if not name.endswith("num_batches_tracked")}
    problems = [
        *_listed("missing", required - state.keys()),
        *_listed("unexpected", state.keys() - expected.keys()),
        *_listed(
            "of another shape",
            {
                f"{name} {list(state[name].shape)} instead of {list(expected[name].shape)}"
                for name in state.keys() & expected.keys()
                if state[name].shape != expected[name].shape
            },
        ),
    ]
    if problems:
        raise DataError(f"{path}: the tensors do not match this model: {'; '.join(problems)}.")
    model.load_state_dict(state, strict=False)


def _listed(problem: str, names: set[str]) -> list[str]:
    if not names:
        return []
    shown = sorted(names)[:3]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return [f"{problem}: {', '.join(shown)}{more}"]


def state_sha256(model: nn.Module) -> str:
    """Return the SHA-256, in hex, of a model's weights: names, types, shapes and values, in the order of names."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
