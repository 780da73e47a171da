"""The vehicle pictures: which there are, which are near-twins, and how they are cut into blocks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from wayside_train import preprocess

LABELS = ("bike", "car", "juggernaut", "minibus", "pickup", "truck")
CHOOSING = range(1, 501)
HOLD_OUT = range(501, 601)
BLOCKS = 5
TWIN_SIDE, TWIN_CORRELATION = 24, 0.9


@dataclass(frozen=True)
class Picture:
    path: Path
    label: int
    number: int


def listed(data: Path, numbers: range) -> list[Picture]:
    """The pictures with these numbers, class by class. Raises `FileNotFoundError` where one is missing."""
    found = [
        Picture(data / "vehicles" / name / f"{number:04d}.jpg", label, number)
        for label, name in enumerate(LABELS)
        for number in numbers
    ]
    for picture in found:
        if not picture.path.exists():
            raise FileNotFoundError(picture.path)
    return found


def block(picture: Picture) -> int:
    """Which of the five contiguous blocks of 100 a picture of 1 to 500 lies in."""
    return (picture.number - 1) * BLOCKS // len(CHOOSING)


def outlines(pictures: list[Picture]) -> np.ndarray:
    """Each picture as 24 × 24 grey values of mean 0 and norm 1: products of rows are correlations."""
    rows = []
    for picture in pictures:
        grey = preprocess.decode(picture.path).convert("L")
        rows.append(np.asarray(grey.resize((TWIN_SIDE, TWIN_SIDE), Image.Resampling.BILINEAR), np.float64).ravel())
    centered = np.array(rows) - np.mean(rows, axis=1, keepdims=True)
    return centered / np.linalg.norm(centered, axis=1, keepdims=True)


def twin_groups(pictures: list[Picture]) -> np.ndarray:
    """A group number for each picture: near-twins, and near-twins of near-twins, share one."""
    rows = outlines(pictures)
    twins = rows @ rows.T > TWIN_CORRELATION
    groups = np.full(len(pictures), -1)
    for first in range(len(pictures)):
        frontier = [first] if groups[first] < 0 else []
        while frontier:
            picture = frontier.pop()
            groups[picture] = first
            frontier += [other for other in np.flatnonzero(twins[picture] & (groups < 0)) if other not in frontier]
    return groups


def have_twins(pictures: list[Picture], others: list[Picture]) -> np.ndarray:
    """For each picture whether a near-twin is among the others."""
    return (outlines(pictures) @ outlines(others).T > TWIN_CORRELATION).any(axis=1)
