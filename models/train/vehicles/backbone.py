"""From vehicle pictures to embeddings: the frozen backbone, and the standardisation that belongs to it."""

from dataclasses import dataclass

import numpy as np
import onnx
from PIL import Image
from pictures import LABELS

from wayside_train import efficientnet_lite0, preprocess
from wayside_train.network import Network
from wayside_train.preprocess import ImageInput

SIDE = 160
INPUT = ImageInput(width=SIDE, height=SIDE, mean=(efficientnet_lite0.MEAN,) * 3, std=(efficientnet_lite0.STD,) * 3)

# In units of the deviation over all features: a feature that hardly varies is not blown up, noise and all.
SCALE_FLOOR = 0.1


@dataclass(frozen=True)
class Standard:
    """Makes pooled features into the embedding: (pooled - center) * scale, both float32 [1824]."""

    center: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, pooled: np.ndarray) -> "Standard":
        deviation = pooled.std(axis=0, dtype=np.float64) + SCALE_FLOOR * pooled.std(dtype=np.float64)
        return cls(pooled.mean(axis=0, dtype=np.float64).astype(np.float32), (1 / deviation).astype(np.float32))

    def embedding(self, pooled: np.ndarray) -> np.ndarray:
        return (pooled - self.center) * self.scale

    def model(self, head: np.ndarray) -> onnx.ModelProto:
        """The whole network with a head [6, 1825], the bias last."""
        tensors = efficientnet_lite0.imagenet_tensors()
        return efficientnet_lite0.build(tensors, SIDE, self.center, self.scale, head[:, :-1], head[:, -1])


def pooled_features(images: list[Image.Image]) -> np.ndarray:
    """What the backbone gives for each whole picture before it is standardised, float32 [n, 1824]."""
    size = efficientnet_lite0.EMBEDDING
    backbone = Network(Standard(np.zeros(size), np.ones(size)).model(np.zeros((len(LABELS), size + 1))))
    inputs = (preprocess.tensor(preprocess.resized(image, None, INPUT), INPUT) for image in images)
    return np.array([backbone.run(value)["embedding"] for value in inputs])


def image_features(images: list[Image.Image]) -> dict[str, np.ndarray]:
    """The drift features of each whole picture."""
    rows = [preprocess.image_features(preprocess.resized(image, None, INPUT)) for image in images]
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}
