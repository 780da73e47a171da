"""Statistics of a window, as the manifest's `features` name them: `statistic(channel)`."""

import re

import numpy as np

STATISTICS = {
    "mean": np.mean,
    "std": np.std,
    "min": np.min,
    "max": np.max,
    "rms": lambda x: np.sqrt(np.mean(np.square(x))),
    "ptp": np.ptp,
    "mad": lambda x: np.mean(np.abs(np.diff(x))),
    "last": lambda x: x[-1],
    "delta": lambda x: x[-1] - x[0],
}

_FEATURE = re.compile(r"(\w+)\((?:norm\(([\w,]+)\)|(\w+))\)")


def features(window: dict[str, np.ndarray], names: list[str]) -> np.ndarray:
    """The named features of one window in float64; `window` holds each column in time order.

    Raises `ValueError` for a name that cannot be read, `KeyError` for an unknown statistic or column.
    """
    return np.array([_feature(window, name) for name in names])


def _feature(window, name):
    match = _FEATURE.fullmatch(name)
    if match is None:
        raise ValueError(f"feature {name!r} is not statistic(channel)")
    statistic, norm, column = match.groups()
    if column is not None:
        channel = np.asarray(window[column], np.float64)
    else:
        channel = np.sqrt(sum(np.square(np.asarray(window[part], np.float64)) for part in norm.split(",")))
    return float(STATISTICS[statistic](channel))
