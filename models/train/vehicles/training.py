"""Fits the two heads on pictures 1 to 500 and judges them by contiguous blocks."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pictures
from alter import altered
from backbone import Standard, image_features, pooled_features
from pictures import BLOCKS, LABELS, Picture

from wayside_train import head, preprocess

SEED = 1


@dataclass(frozen=True)
class Training:
    """Pictures 1 to 500 of each class, and the standardisation that they gave.

    `embeddings` are of the pictures as they are, `altered` of one altered view of each, both float32 [n, 1824];
    `image` holds the drift features.
    """

    found: list[Picture]
    standard: Standard
    embeddings: np.ndarray
    altered: np.ndarray
    image: dict[str, np.ndarray]

    @classmethod
    def read(cls, data: Path) -> "Training":
        """Raises `FileNotFoundError` where a picture of 1 to 500 is missing."""
        found = pictures.listed(data, pictures.CHOOSING)
        images = [preprocess.decode(picture.path) for picture in found]
        pooled = pooled_features(images)
        standard = Standard.of(pooled)
        chance = np.random.default_rng(SEED)
        views = standard.embedding(pooled_features([altered(image, chance) for image in images]))
        return cls(found, standard, standard.embedding(pooled), views, image_features(images))

    def head(self, penalty: float, fitting: np.ndarray | None = None) -> np.ndarray:
        """Float64 [6, 1825], the bias last, fitted on all pictures or on those that the mask `fitting` marks."""
        fitting = np.ones(len(self.found), bool) if fitting is None else fitting
        rows = np.concatenate([self.embeddings[fitting], self.altered[fitting]])
        return head.fit(rows, np.tile(self._labels[fitting], 2), len(LABELS), penalty)

    def out_of_block_logits(self, penalty: float) -> np.ndarray:
        """Each picture's logits from a head fitted on the other blocks, without the near-twins of its own block.

        Only the standardisation, which knows no labels, has seen the block.
        """
        groups = pictures.twin_groups(self.found)
        result = np.empty((len(self.found), len(LABELS)))
        for held_out in range(BLOCKS):
            judged = self._blocks == held_out
            fitted = self.head(penalty, ~judged & ~np.isin(groups, groups[judged]))
            result[judged] = head.logits(self.embeddings[judged], fitted)
        return result

    def block_accuracies(self, out_of_block_logits: np.ndarray) -> list[float]:
        right = out_of_block_logits.argmax(axis=1) == self._labels
        return [float(right[self._blocks == held_out].mean()) for held_out in range(BLOCKS)]

    @property
    def _labels(self):
        return np.array([picture.label for picture in self.found])

    @property
    def _blocks(self):
        return np.array([pictures.block(picture) for picture in self.found])
