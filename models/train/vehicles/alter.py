"""Alters a picture as another hour, lens or framing would: what the head must not depend on.

Only table look-ups and Pillow's integer filters touch pixels, so that every machine gets the same picture.
"""

import numpy as np
from PIL import Image, ImageFilter


def altered(image: Image.Image, chance: np.random.Generator) -> Image.Image:
    """Another light (gamma, gain, contrast, tint); often another crop, mirrored, sometimes blurred."""
    gamma, gain, contrast = np.exp(chance.uniform(-0.5, 0.5)), chance.uniform(0.75, 1.25), chance.uniform(0.7, 1.3)
    level = (np.arange(256) / 255) ** gamma * gain
    level = ((level - 0.5) * contrast + 0.5) * (1 + chance.uniform(-0.08, 0.08, (3, 1)))
    image = image.point(np.rint(level * 255).clip(0, 255).astype(int).ravel().tolist())
    if chance.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if chance.random() < 0.3:
        image = image.filter(ImageFilter.GaussianBlur(chance.uniform(0.3, 1.2)))
    if chance.random() < 0.7:
        left, top, right, bottom = (int(side) for side in chance.integers(0, 8, 4, endpoint=True))
        image = image.crop((left, top, image.width - right, image.height - bottom))
    return image
