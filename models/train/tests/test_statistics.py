"""Statistics of windows, with values worked out by hand."""

import sys
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wayside_train import statistics  # noqa: E402

WINDOW = {"a": np.array([1.0, 4.0, 1.0, 2.0]), "x": np.array([3.0, 0.0, 0.0, 6.0]), "y": np.array([4.0, 0.0, 1.0, 8.0])}


class Statistics(unittest.TestCase):
    def test_each_statistic_of_a_column(self):
        expected = {
            "mean": 2.0,
            "std": 1.5**0.5,  # deviations -1, 2, -1, 0: squares 6 over 4
            "min": 1.0,
            "max": 4.0,
            "rms": 5.5**0.5,  # squares 1 + 16 + 1 + 4 = 22 over 4
            "ptp": 3.0,
            "mad": 7 / 3,  # 3 + 3 + 1 over 3 steps
            "last": 2.0,
            "delta": 1.0,
        }
        got = statistics.features(WINDOW, [f"{name}(a)" for name in expected])
        np.testing.assert_allclose(got, list(expected.values()), rtol=1e-15)

    def test_a_norm_is_taken_row_by_row(self):
        np.testing.assert_allclose(statistics.features(WINDOW, ["mean(norm(x,y))", "delta(norm(x,y))"]), [4.0, 5.0])

    def test_what_is_no_statistic_of_a_channel_is_refused(self):
        for name in ("mean", "mean()", "mean(x", "mean(sum(x))"):
            with self.assertRaises(ValueError, msg=name):
                statistics.features(WINDOW, [name])
        for name in ("median(x)", "mean(z)", "mean(norm(x,z))"):
            with self.assertRaises(KeyError, msg=name):
                statistics.features(WINDOW, [name])


if __name__ == "__main__":
    unittest.main()
