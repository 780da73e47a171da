"""Scores of class predictions, from counts."""

import numpy as np


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts [truth, predicted]."""
    return np.bincount(truth * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def balanced_accuracy(counts: np.ndarray) -> float:
    """Mean share of right answers over the classes that occur."""
    occurring = counts.sum(axis=1) > 0
    return float((np.diag(counts)[occurring] / counts.sum(axis=1)[occurring]).mean())


def matthews(counts: np.ndarray) -> float:
    """Matthews correlation coefficient of two classes; 0 where one of them is never truth or never predicted."""
    (tn, fp), (fn, tp) = counts.astype(float)
    norm = np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    return float((tp * tn - fp * fn) / norm) if norm else 0.0


def auc(truth: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties half."""
    positive, negative = score[truth == 1], np.sort(score[truth == 0])
    below = np.searchsorted(negative, positive, side="left")
    equal = np.searchsorted(negative, positive, side="right") - below
    return float((below + equal / 2).mean() / len(negative))
