"""The retraining job refuses what it cannot use, in one line and with exit status 1, and writes nothing."""

import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

TRAIN = Path(__file__).resolve().parents[1]
BASE = TRAIN.parent / "zoo" / "vehicles"


class Refusals(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.dataset = Path(self.folder.name)

    def job(self, samples, **variables) -> tuple[int, str]:
        (self.dataset / "samples.json").write_text(json.dumps({"samples": samples}))
        environment = os.environ | {
            "WAYSIDE_DATASET": str(self.dataset),
            "WAYSIDE_BASE": str(BASE),
            "WAYSIDE_OUTPUT": str(self.dataset / "out"),
        }
        done = subprocess.run(
            [sys.executable, TRAIN / "vehicles" / "retrain.py"], env=environment | variables, capture_output=True, text=True
        )
        return done.returncode, done.stdout

    def refused(self, samples, says, **variables):
        status, log = self.job(samples, **variables)
        self.assertEqual(status, 1, log)
        self.assertIn("error: ", log)
        self.assertIn(says, log)
        self.assertFalse((self.dataset / "out").exists())

    def sample(self, **changes):
        picture = str(BASE / "golden" / "car-0033.jpg")
        return {"file": picture, "label": "car", "roi": None, "embedding": None} | changes

    def test_unknown_label(self):
        self.refused([self.sample(label="tram")], "'tram' is not one of")

    def test_missing_file(self):
        self.refused([self.sample(file="images/none.jpg")], "none.jpg")

    def test_one_class_only(self):
        self.refused([self.sample(), self.sample()], "two classes are the least")

    def test_no_samples(self):
        self.refused([], "two classes are the least")

    def test_box_outside_of_the_picture(self):
        self.refused([self.sample(roi=[90, 0, 20, 20])], "not inside")

    def test_embedding_of_another_length(self):
        self.refused([self.sample(embedding=[1.0, 2.0])], "finite numbers")

    def test_wrong_version(self):
        self.refused([self.sample(), self.sample(label="bike")], "WAYSIDE_VERSION", WAYSIDE_VERSION="two")

    def test_two_samples_of_two_classes_give_a_package(self):
        status, log = self.job([self.sample(), self.sample(label="truck")], WAYSIDE_VERSION="7")
        self.assertEqual(status, 0, log)
        written = {path.name for path in (self.dataset / "out").iterdir()}
        self.assertEqual(written, {"manifest.toml", "model.onnx", "golden", "golden.json", "reference.json", "card.md"})
        self.assertIn("version = 7\n", (self.dataset / "out" / "manifest.toml").read_text())


if __name__ == "__main__":
    unittest.main()
