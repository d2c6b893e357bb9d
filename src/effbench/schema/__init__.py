"""The records that effbench writes, reads and shows; frozen, JSON in and out, units in the names.

Only the standard library is imported here: these records travel to devices.
"""

from __future__ import annotations

from effbench.schema.artifact import (
    LATENCY_ONLY,
    Artifact,
    Fidelity,
    FileInfo,
    OperatorFault,
    OutputFidelity,
    Proof,
    Stage,
    Subject,
)
from effbench.schema.cell import Cell, Status
from effbench.schema.device import DECLARED, EVIDENCE, Device, Fact
from effbench.schema.evaluation import DataInfo, Evaluation, Predictions
from effbench.schema.measurement import Measurement, Round, Samples, Start, finite
from effbench.schema.model import CALIBRATED, PRECISIONS, WEIGHT_KINDS, Backbone, Preprocessing, Weights
from effbench.schema.mutation import MutationOutcome, MutationReport
from effbench.schema.row import Row
from effbench.schema.shapes import DEFAULT_BATCH, DEFAULT_RESOLUTION, DEFAULT_THREADS, InputShapes, Resolution
from effbench.schema.signature import (
    LAYOUTS,
    ROLES,
    InputSpec,
    InputTerms,
    TensorSpec,
    image_of,
    parse_roles,
    parse_shapes,
)

FORMAT_VERSION = 3
"""Written into every manifest and measurement; a reader refuses any other."""

__all__ = [
    "CALIBRATED",
    "DECLARED",
    "DEFAULT_BATCH",
    "DEFAULT_RESOLUTION",
    "DEFAULT_THREADS",
    "EVIDENCE",
    "FORMAT_VERSION",
    "LATENCY_ONLY",
    "LAYOUTS",
    "PRECISIONS",
    "ROLES",
    "WEIGHT_KINDS",
    "Artifact",
    "Backbone",
    "Cell",
    "DataInfo",
    "Device",
    "Evaluation",
    "Fact",
    "Fidelity",
    "FileInfo",
    "InputShapes",
    "InputSpec",
    "InputTerms",
    "Measurement",
    "MutationOutcome",
    "MutationReport",
    "OperatorFault",
    "OutputFidelity",
    "Predictions",
    "Preprocessing",
    "Proof",
    "Resolution",
    "Round",
    "Row",
    "Samples",
    "Stage",
    "Start",
    "Status",
    "Subject",
    "TensorSpec",
    "Weights",
    "finite",
    "image_of",
    "parse_roles",
    "parse_shapes",
]
