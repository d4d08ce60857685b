"""Runs the weights on onnxruntime, which comes with the extra `prediction` and is imported when it is used."""

from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwcp.errors import StateError

if TYPE_CHECKING:
    from dwcp.forecast.features import Array, Inputs

SHIPPED = "weights.onnx"
INPUTS = ("sequence", "scalars", "bank", "scale")
OUTPUT = "quantiles"
LARGEST = 16 << 20
"""Bytes of a file of weights: ours has a few hundred kilobytes, and a file in the wrong place must not fill memory."""


class OnnxNetwork:
    """`dwcp.forecast.lstm.Network`, on one thread: a forecast is too small to be divided."""

    def __init__(self, weights: str = "") -> None:
        """`weights`: a file, or empty for those in the package. Raises StateError where they cannot be had."""
        try:
            runtime: Any = import_module("onnxruntime")
        except ImportError as error:
            raise StateError(
                f"prediction.model_type: lstm needs onnxruntime ({error}): pip install 'dwcp[prediction]'"
            ) from error
        name = f"prediction.weights: {weights or SHIPPED}"
        try:
            source = Path(weights) if weights else files("dwcp.prediction").joinpath(SHIPPED)
            with source.open("rb") as file:
                content = file.read(LARGEST + 1)
        except OSError as error:
            raise StateError(f"{name} cannot be read: {error.strerror}") from error
        if len(content) > LARGEST:
            raise StateError(f"{name} is larger than 16 MiB: these are no weights of dwcp.prediction.train")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 4
        try:
            self._session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            # onnxruntime's errors have no common class of their own
            raise StateError(f"{name} holds no weights that onnxruntime can read: {error}") from error
        if [entry.name for entry in self._session.get_inputs()] != list(INPUTS):
            raise StateError(f"{name} holds another network than this version's; train it anew")

    def run(self, inputs: Inputs) -> Array:
        given = {name: getattr(inputs, name) for name in INPUTS}
        quantiles: Array = self._session.run([OUTPUT], given)[0]
        return quantiles
