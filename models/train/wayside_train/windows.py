"""Windows of recorded series: cutting, features, held-out groups, and the files of a package that come from them."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wayside_train import golden, head, reference, statistics
from wayside_train.manifest import Manifest
from wayside_train.network import Network
from wayside_train.window_network import Standard


@dataclass(frozen=True)
class Series:
    """One gapless recording: columns of equal length in time order, and its name."""

    name: str
    columns: dict[str, np.ndarray]


@dataclass(frozen=True)
class Window:
    """Rows `start` to `start + rows` of a series."""

    series: Series
    start: int
    rows: int

    def column(self, name: str) -> np.ndarray:
        return self.series.columns[name][self.start : self.start + self.rows]

    def features(self, names: tuple[str, ...]) -> np.ndarray:
        rows = slice(self.start, self.start + self.rows)
        return statistics.features({name: column[rows] for name, column in self.series.columns.items()}, names)


def cut(series: Series, rows: int, step: int) -> list[Window]:
    """All whole windows of a series."""
    length = len(next(iter(series.columns.values())))
    return [Window(series, start, rows) for start in range(0, length - rows + 1, step)]


def held_out_logits(
    features: np.ndarray,
    labels: np.ndarray,
    classes: int,
    penalty: float,
    folds: list[tuple[np.ndarray, np.ndarray]],
    used: np.ndarray,
) -> np.ndarray:
    """Logits of each row from a head and a standardisation fitted without its group.

    Each fold is (rows judged, rows fitted), two masks. `used` marks the columns of the embedding that the head may see.
    Rows that no fold judges are NaN.
    """
    result = np.full((len(labels), classes), np.nan)
    for judged, fitted in folds:
        standard = Standard.of(features[fitted])
        fold_head = fit(standard.embedding(features[fitted]), labels[fitted], classes, penalty, used)
        result[judged] = head.logits(standard.embedding(features[judged]), fold_head)
    return result


def fit(embedding: np.ndarray, labels: np.ndarray, classes: int, penalty: float, used: np.ndarray) -> np.ndarray:
    """A head [classes, dimension + 1] that is zero where `used` is false."""
    fitted = head.fit(embedding[:, used], labels, classes, penalty)
    whole = np.zeros((classes, embedding.shape[1] + 1))
    whole[:, np.flatnonzero(np.append(used, True))] = fitted
    return whole


def write_package(
    folder: Path, manifest: Manifest, network: Network, samples: dict[str, Window], reference_rows: np.ndarray, logits: np.ndarray
) -> None:
    """Writes manifest, golden samples and reference.

    `samples` maps names to windows, `reference_rows` holds features [rows, features] of held-out data, `logits` the
    answers to them from heads that were fitted without them.
    """
    manifest.write(folder)
    (folder / "golden").mkdir()
    names = [name for name, _unit in manifest.input.columns]
    inputs = []
    for name, window in samples.items():
        inputs.append((f"golden/{name}.csv", None))
        with open(folder / inputs[-1][0], "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(names)
            writer.writerows(zip(*([f"{value:.10g}" for value in window.column(column)] for column in names)))
    golden.write(folder, manifest, network, inputs)
    embedding = np.array([network.run(row.astype(np.float32)[None])["embedding"] for row in reference_rows])
    inputs_by_name = {f"input.{name}": reference_rows[:, i] for i, name in enumerate(manifest.input.features)}
    reference.write(folder, inputs_by_name | reference.answer_features(logits, embedding))
