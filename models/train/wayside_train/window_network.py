"""The network for windows: features and their logarithms, standardised, and linear heads on them.

Convex to fit, so that there is one answer, and small enough for any device. The logarithm makes ratios of features,
and scales that range over decades, linear.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Added before the logarithm, in the unit of the feature: what is smaller counts as zero.
LOG_FLOOR = 0.05


@dataclass(frozen=True)
class Standard:
    """Makes [features, log(|features| + 0.05)] into the embedding: (… - center) * scale, both float64 [2 · features]."""

    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> "Standard":
        widened = _widened(features)
        return cls(widened.mean(axis=0), 1 / np.maximum(widened.std(axis=0), 1e-6))

    def embedding(self, features: np.ndarray) -> np.ndarray:
        """[rows, 2 · features] for [rows, features]."""
        return (_widened(features) - self.center) * self.scale


def _widened(features):
    return np.concatenate([features, np.log(np.abs(features) + LOG_FLOOR)], axis=1)


def build(standard: Standard, heads: dict[str, np.ndarray]) -> onnx.ModelProto:
    """Network with input `features` [1, features], an output [1, classes] for each head, and `embedding`.

    A head is [classes, 2 · features + 1], the bias last. That of the first becomes the initializers `head.weight` and
    `head.bias`, that of another `NAME.weight` and `NAME.bias`.
    """
    size = len(standard.center)
    constants = {
        "log.floor": np.float32(LOG_FLOOR),
        "embedding.center": standard.center[None],
        "embedding.scale": standard.scale[None],
    }
    nodes = [
        helper.make_node("Abs", ["features"], ["magnitude"]),
        helper.make_node("Add", ["magnitude", "log.floor"], ["positive"]),
        helper.make_node("Log", ["positive"], ["logarithm"]),
        helper.make_node("Concat", ["features", "logarithm"], ["widened"], axis=1),
        helper.make_node("Sub", ["widened", "embedding.center"], ["centered"]),
        helper.make_node("Mul", ["centered", "embedding.scale"], ["embedding"]),
    ]
    outputs = []
    for index, (name, head) in enumerate(heads.items()):
        initializer = "head" if index == 0 else name
        constants |= {f"{initializer}.weight": head[:, :-1], f"{initializer}.bias": head[:, -1]}
        inputs = ["embedding", f"{initializer}.weight", f"{initializer}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, [name], name=name, transB=1))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, len(head)]))
    outputs.append(helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, size]))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "window",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, size // 2])],
            outputs,
            [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
        producer_name="wayside",
    )
    onnx.checker.check_model(model, full_check=True)
    return model
