"""The reference preprocessor: what `[input.image]` of a manifest means, written with Pillow alone.

Expectations in `golden.json` come from here, never from the engine that they judge.
"""

from dataclasses import dataclass
from math import floor
from pathlib import Path

import numpy as np
from PIL import Image

FILTERS = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}


@dataclass(frozen=True)
class ImageInput:
    """`[input.image]` together with the side lengths of the network's input, in pixels."""

    width: int
    height: int
    roi: str = "source"
    color: str = "rgb"
    resize: str = "stretch"
    filter: str = "bilinear"
    pad: tuple[int, int, int] = (0, 0, 0)
    layout: str = "nchw"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    @property
    def shape(self) -> list[int]:
        return [1, 3, self.height, self.width] if self.layout == "nchw" else [1, self.height, self.width, 3]


def decode(path: Path) -> Image.Image:
    """The picture as 8-bit RGB. Raises what Pillow raises for a file that is not a picture."""
    with Image.open(path) as image:
        return image.convert("RGB")


def resized(frame: Image.Image, roi: list[int] | None, spec: ImageInput) -> Image.Image:
    """The ROI at the network's size, still 8-bit RGB.

    `roi` is `[x, y, width, height]` in whole pixels of `frame`, None for all of it. Pixels outside do not matter.
    Raises `ValueError` for an empty box or one that leaves the frame.
    """
    if roi is not None and spec.roi == "source":
        x, y, width, height = roi
        if min(x, y) < 0 or min(width, height) < 1 or x + width > frame.width or y + height > frame.height:
            raise ValueError(f"ROI {roi} is not inside a frame of {frame.width}x{frame.height}")
        frame = frame.crop((x, y, x + width, y + height))
    target = (spec.width, spec.height)
    if spec.resize == "stretch":
        return frame.resize(target, FILTERS[spec.filter])
    scale = min(spec.width / frame.width, spec.height / frame.height)
    inner = tuple(max(1, floor(side * scale + 0.5)) for side in frame.size)
    letterbox = Image.new("RGB", target, tuple(spec.pad))
    corner = ((spec.width - inner[0]) // 2, (spec.height - inner[1]) // 2)
    letterbox.paste(frame.resize(inner, FILTERS[spec.filter]), corner)
    return letterbox


def tensor(image: Image.Image, spec: ImageInput) -> np.ndarray:
    """Float32 input of the network for a picture that `resized` gave."""
    pixels = np.asarray(image, np.float32)
    if spec.color == "bgr":
        pixels = pixels[:, :, ::-1]
    pixels = (pixels - np.float32(spec.mean)) / np.float32(spec.std)
    if spec.layout == "nchw":
        pixels = pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(pixels[None])


def luma(image: Image.Image) -> np.ndarray:
    """0.299 R + 0.587 G + 0.114 B, float64, 0 to 255."""
    return np.asarray(image, np.float64) @ [0.299, 0.587, 0.114]


def image_features(image: Image.Image) -> dict[str, float]:
    """The drift features of a picture that `resized` gave."""
    y = luma(image)
    laplacian = 4 * y[1:-1, 1:-1] - y[:-2, 1:-1] - y[2:, 1:-1] - y[1:-1, :-2] - y[1:-1, 2:]
    return {
        "image.brightness": float(y.mean()),
        "image.contrast": float(y.std()),
        "image.sharpness": float(np.abs(laplacian).mean()),
    }
