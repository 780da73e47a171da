"""`reference.json`: counts of the drift features over data on which the model was not fitted."""

import json
from pathlib import Path

import numpy as np

from wayside_train import head

EDGES = 31


def answer_features(logits: np.ndarray, embedding: np.ndarray) -> dict[str, np.ndarray]:
    """`output.margin`, `output.class` and `embedding.norm` of each row."""
    ordered = np.sort(head.softmax(np.asarray(logits, np.float64)), axis=1)
    return {
        "output.margin": ordered[:, -1] - ordered[:, -2],
        "output.class": np.argmax(logits, axis=1).astype(np.float64),
        "embedding.norm": np.sqrt(np.square(np.asarray(embedding, np.float64)).sum(axis=1)),
    }


def edges(values: np.ndarray) -> np.ndarray:
    """31 rising edges that cut `values` into bins of equal mass, as far as ties allow.

    Edges that ties leave over lie above the largest value; their bins are empty.
    """
    quantiles = np.quantile(values, np.arange(1, EDGES + 1) / (EDGES + 1))
    distinct = np.unique([float(f"{q:.9g}") for q in quantiles])
    spare = EDGES - len(distinct)
    step = max(float(np.ptp(values)), 1e-6) / EDGES
    return np.concatenate([distinct, max(values.max(), distinct[-1]) + step * np.arange(1, spare + 1)])


def counts(values: np.ndarray, feature_edges: np.ndarray) -> np.ndarray:
    """How many values lie in each bin; bin i = [edge i-1, edge i), the outer two are open."""
    return np.bincount(np.searchsorted(feature_edges, values, side="right"), minlength=len(feature_edges) + 1)


def write(package: Path, features: dict[str, np.ndarray]) -> None:
    """Bins each feature's values (all of one length) and writes `reference.json`."""
    entries = []
    for name, values in features.items():
        feature_edges = np.arange(EDGES) + 0.5 if name == "output.class" else edges(values)
        entry = {"name": name, "edges": feature_edges.tolist(), "counts": counts(values, feature_edges).tolist()}
        entries.append("  " + json.dumps(entry))
    n = len(next(iter(features.values())))
    (package / "reference.json").write_text('{"features": [\n' + ",\n".join(entries) + f'\n], "n": {n}}}\n')
