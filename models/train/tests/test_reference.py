"""Edges and counts of drift features, scores, and the head's solver, on cases small enough for paper."""

import sys
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wayside_train import head, reference, scores  # noqa: E402


class Counting(unittest.TestCase):
    def test_a_value_on_an_edge_lies_above_it(self):
        self.assertEqual(reference.counts(np.array([0.5, 1.0, 1.5, 2.0, 9.0]), np.array([1.0, 2.0])).tolist(), [1, 2, 2])

    def test_there_are_31_rising_edges_even_with_ties(self):
        for values in (np.arange(320.0), np.ones(50), np.repeat([0.0, 1.0], 40)):
            edges = reference.edges(values)
            self.assertEqual(len(edges), 31)
            self.assertTrue((np.diff(edges) > 0).all())

    def test_bins_hold_equal_mass_where_nothing_ties(self):
        values = np.arange(320.0)
        self.assertEqual(reference.counts(values, reference.edges(values)).tolist(), [10] * 32)

    def test_margin_class_and_norm(self):
        got = reference.answer_features(np.log([[0.7, 0.2, 0.1]]), np.array([[3.0, 4.0]]))
        self.assertAlmostEqual(got["output.margin"][0], 0.5)
        self.assertEqual(got["output.class"].tolist(), [0.0])
        self.assertEqual(got["embedding.norm"].tolist(), [5.0])


class Scores(unittest.TestCase):
    def test_two_classes(self):
        counts = scores.confusion(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 1, 0]), 2)
        self.assertEqual(counts.tolist(), [[2, 1], [1, 1]])
        self.assertAlmostEqual(scores.balanced_accuracy(counts), (2 / 3 + 1 / 2) / 2)
        self.assertAlmostEqual(scores.matthews(counts), (1 * 2 - 1 * 1) / 6)  # sqrt(2 · 2 · 3 · 3)

    def test_auc_counts_pairs_and_half_of_ties(self):
        self.assertAlmostEqual(scores.auc(np.array([0, 0, 1, 1]), np.array([1.0, 2.0, 2.0, 3.0])), 3.5 / 4)


class Fitting(unittest.TestCase):
    def test_the_head_is_a_minimum(self):
        chance = np.random.default_rng(0)
        x, y = chance.normal(size=(60, 3)), np.arange(60) % 3
        fitted = head.fit(x, y, 3, 0.01)

        def objective(h):
            z = head.logits(x, h)
            return np.mean(np.log(np.exp(z).sum(axis=1)) - z[np.arange(60), y]) + 0.005 * np.sum(h * h)

        for _ in range(20):
            step = 1e-3 * chance.normal(size=fitted.shape)
            self.assertGreater(objective(fitted + step), objective(fitted))

    def test_a_strong_penalty_keeps_the_start(self):
        start = np.array([[1.0, 2.0], [3.0, 4.0]])
        fitted = head.fit(np.array([[0.5], [-0.5]]), np.array([0, 1]), 2, 1e6, start)
        np.testing.assert_allclose(fitted, start, atol=1e-5)


if __name__ == "__main__":
    unittest.main()
