"""From a backbone to checked artifacts: one ONNX graph, then a plain translation per target.

A target is one module of `effbench.deploy.targets` that ends in ``TARGET``, or an entry point of the group
``effbench.targets`` in another package. `Target.convert` is heavy and runs on the workstation. `Target.open` is light
and runs on the device, with numpy, the standard library and the target's runtime alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effbench.errors import UsageError, unknown_name
from effbench.registry import constants_in, plugins
from effbench.schema import Artifact, Proof

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]
else:
    Array = Any  # numpy takes longer to import than listing the targets


Traced = Callable[[Mapping[str, Array]], Mapping[str, Array]]
"""Runs one batch on a runtime, and returns its outputs and levels of quantized activations, by the graph's names."""


class Session(ABC):
    """A loaded artifact. One promise: a call returns only when its outputs are readable on the host.

    A subclass implements `__call__`; every other member has a default.
    """

    compute_precision: str | None = None
    """The precision that the runtime computes in, read back; None if the runtime does not report it."""
    simulated: bool = False
    """True if this simulates the hardware that the artifact is for: valid for fidelity, worthless for latency."""
    slack: float = 1.0
    """How many times the limits its errors may be, for a simulation that is known to be pessimistic."""
    max_images: int | None = None
    """How many images a fidelity check runs, because a simulator needs seconds or minutes for each; None: all."""

    @property
    def proof(self) -> Proof:
        """What a comparison of its outputs with the reference proves the artifact by."""
        return Proof.SIMULATOR if self.simulated else Proof.RUNTIME

    @abstractmethod
    def __call__(self, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
        """Run once, end to end: host arrays in, host arrays out."""

    def placement(self) -> dict[str, Any]:
        """Return where the operators run, in the runtime's own terms; empty if the runtime does not report it."""
        return {}

    def close(self) -> None:  # noqa: B027  # a session without resources has nothing to free
        """Free what the session holds."""


@dataclass(frozen=True)
class Converted:
    """The result of a conversion: the file that a runtime opens, and what is known of it offline."""

    entry: str
    storage_precision: str
    compute_precision: str | None = None
    placement: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Target(ABC):
    """A runtime that artifacts are made for.

    A subclass sets `name` and `title` and implements `convert` and `open`; every other member has a default.
    """

    name: str
    """What a user types after ``--target``."""
    title: str
    """The runtime's name in tables and messages."""
    extra: str = ""
    """The extra of effbench that installs what the target needs; empty for a target of another package."""
    packages: tuple[str, ...] = ()
    """Distributions whose versions decide the output of `convert`; they enter the artifact's key."""
    precision: str = "fp32"
    """The default precision."""
    refuses: Mapping[str, str] = {}
    """Precisions that the target supports on no machine, each with the reason."""
    options: Mapping[str, str] = {}
    """The keys of ``--set key=value``, each with one line that explains it. Other keys are refused."""
    checks: tuple[Mapping[str, str], ...] = ({},)
    """Options to open an artifact with when its fidelity is checked, one check each; all have to pass."""

    @property
    def modules(self) -> tuple[str, ...]:
        """Modules to import to find out whether the runtime loads; by default named like `packages`."""
        return tuple(package.replace("-", "_") for package in self.packages)

    @property
    def install_command(self) -> str:
        """The command that installs what the target needs; empty if it needs nothing that pip installs."""
        if self.extra:
            return f"pip install 'effbench[{self.extra}]'"
        return f"pip install {' '.join(self.packages)}" if self.packages else ""

    @property
    def on_request(self) -> bool:
        """Whether artifacts are made only if the user names the target, although the runtime is installed."""
        return False

    @property
    def license(self) -> str | None:
        """The license of an installed toolkit that is not open source, and where its text is; else None."""
        return None

    def available(self) -> str | None:
        """Return None if `convert` can make artifacts here, else the reason why not; nothing heavy is imported."""
        for package, module in zip(self.packages, self.modules, strict=True):
            if not installed(module.partition(".")[0]):
                return f"the package '{package}' is not installed"
        return None

    def measurable(self) -> str | None:
        """Return None if a latency can be measured here, else the reason why not."""
        return self.available()

    def simulates(self) -> bool:
        """Return whether `open` loads a simulator here, and not the hardware that artifacts are for."""
        return False

    @abstractmethod
    def convert(self, graph: Artifact, out: Path, options: Mapping[str, str]) -> Converted:
        """Translate an ONNX graph artifact (precision inside) into files below ``out``."""

    @abstractmethod
    def open(self, artifact: Artifact, threads: int, options: Mapping[str, str]) -> Session:
        """Load an artifact for inference, on a simulator if there is nothing else.

        Raises:
            UnavailableError: It cannot be loaded here at all, not even to verify it.
        """

    def kept_compiled(self, options: Mapping[str, str]) -> str:
        """Return what the runtime keeps compiled between two starts, which a cold start finds; empty if nothing."""
        return ""

    def traced(self, artifact: Artifact, options: Mapping[str, str], tensors: Sequence[str]) -> Traced | None:
        """Return the runtime with inner tensors of the graph as further outputs, on one thread.

        Args:
            artifact: Made from a quantized graph.
            options: As of `open`.
            tensors: Names in that graph of quantized activations. Those that the runtime cannot return are left out.

        Returns:
            A function of inputs by name, which returns outputs and levels by name; None if the runtime cannot do it.
        """
        return None

    def finish(self, folder: Path, home: Path, options: Mapping[str, str]) -> Artifact:
        """Build, on the device that will run it, what `convert` left as a bundle elsewhere.

        Args:
            folder: The bundle.
            home: Folder that the finished artifact is written below.
            options: As of `convert`.

        Raises:
            UsageError: The artifact is complete; by default every artifact is.
        """
        raise UsageError(f"{folder.name} is complete: target '{self.name}' leaves nothing to finish.")


def installed(package: str) -> bool:
    """Return whether a top-level package can be imported; nothing is imported.

    A folder of that name without ``__init__.py`` on the path, such as a clone in the working folder, is no package.
    """
    spec = find_spec(package)
    return spec is not None and spec.origin is not None


def abbreviate(names: Sequence[str], limit: int = 5) -> str:
    """Join names for a message: the first ones, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


@cache
def registered() -> dict[str, Target]:
    """Return all targets by name, effbench's first, then those of other packages.

    Raises:
        UsageError: An entry point names no `Target`.
    """
    targets: dict[str, Target] = {target.name: target for target in constants_in("effbench.deploy.targets", "TARGET")}
    for point in plugins("effbench.targets"):
        target = point.load()
        if not isinstance(target, Target):
            raise UsageError(
                f"The entry point '{point.name}' ({point.value}) is not a target.",
                hint="Its class has to derive from effbench.deploy.Target; see examples/target.py.",
            )
        targets.setdefault(point.name, target)
    return targets


def get(name: str) -> Target:
    """Return a target by name.

    Raises:
        UsageError: The name is unknown.
    """
    target = _target_of_module(name)
    if target is not None:
        return target
    targets = registered()
    if name in targets:
        return targets[name]
    raise unknown_name(name, targets, "target")


def _target_of_module(name: str) -> Target | None:
    """Return the target whose module has its name, without importing the others: every round starts with this."""
    module = f"effbench.deploy.targets.{name.replace('-', '_')}"
    if not name.replace("-", "_").isidentifier() or find_spec(module) is None:
        return None
    target: Target | None = getattr(import_module(module), "TARGET", None)
    return target if target is not None and target.name == name else None


__all__ = ["Array", "Converted", "Session", "Target", "Traced", "abbreviate", "get", "installed", "registered"]
