"""The network of a package in ONNX Runtime, and the two forms in which a package carries it."""

import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

WEIGHT, BIAS = "head.weight", "head.bias"


class Network:
    """One network, ready to run in one thread."""

    def __init__(self, model: onnx.ModelProto):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, value: np.ndarray) -> dict[str, np.ndarray]:
        """The outputs for one input, each flat, by name."""
        results = self._session.run(self._outputs, {self._input: value})
        return {name: result.ravel() for name, result in zip(self._outputs, results)}


def load(package: Path) -> onnx.ModelProto:
    """The network of a package: its own, or that of its base with its own head."""
    if (package / "model.onnx").exists():
        return onnx.load(package / "model.onnx")
    base = tomllib.loads((package / "head.toml").read_text())["base"]
    model = onnx.load(package / base / "model.onnx")
    weight, bias = head(model)
    values = np.frombuffer((package / "head.bin").read_bytes(), "<f4")
    return with_head(model, values[: weight.size].reshape(weight.shape), values[weight.size :].reshape(bias.shape))


def head(model: onnx.ModelProto) -> tuple[np.ndarray, np.ndarray]:
    """The initializers `head.weight` [classes, dimension] and `head.bias` [classes]."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    return numpy_helper.to_array(tensors[WEIGHT]), numpy_helper.to_array(tensors[BIAS])


def with_head(model: onnx.ModelProto, weight: np.ndarray, bias: np.ndarray) -> onnx.ModelProto:
    """A copy of `model` with another head of the same shape."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in (WEIGHT, BIAS):
            value = weight if tensor.name == WEIGHT else bias
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), tensor.name))
    return changed


def save_head(package: Path, base: str, weight: np.ndarray, bias: np.ndarray) -> None:
    """Writes `head.toml` and `head.bin`; `base` is the base package's folder as seen from `package`."""
    (package / "head.toml").write_text(f'base = "{base}"\n')
    (package / "head.bin").write_bytes(np.asarray(weight, "<f4").tobytes() + np.asarray(bias, "<f4").tobytes())
