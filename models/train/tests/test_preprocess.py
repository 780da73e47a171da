"""The reference preprocessor and the drift features of pictures, with values worked out by hand."""

import sys
import unittest
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wayside_train import preprocess  # noqa: E402
from wayside_train.preprocess import ImageInput  # noqa: E402

SMALL = ImageInput(width=2, height=2)


def grey(rows: list[list[int]]) -> Image.Image:
    return Image.fromarray(np.repeat(np.array(rows, np.uint8)[:, :, None], 3, axis=2))


def levels(image: Image.Image) -> list[list[int]]:
    return np.asarray(image)[:, :, 0].tolist()


class Resizing(unittest.TestCase):
    def test_shrinking_widens_the_triangle(self):
        # Four columns to two: the triangle reaches two columns from 1 and from 3. Column 0 of the result weighs the
        # columns at 0.5, 1.5, 2.5 with .75, .75, .25: (0 + 0 + 200 · .25) / 1.75; column 1 mirrors it.
        frame = grey([[0, 0, 200, 200]] * 2)
        self.assertEqual(levels(preprocess.resized(frame, None, SMALL)), [[29, 171]] * 2)

    def test_nearest_takes_the_pixel_under_the_centre(self):
        frame = grey([[0, 50, 100, 150]] * 2)
        self.assertEqual(levels(preprocess.resized(frame, None, replace(SMALL, filter="nearest"))), [[50, 150]] * 2)

    def test_pixels_outside_of_the_box_do_not_matter(self):
        frame = grey([[255, 255, 255, 255], [255, 10, 20, 255], [255, 30, 40, 255], [255, 255, 255, 255]])
        self.assertEqual(levels(preprocess.resized(frame, [1, 1, 2, 2], SMALL)), [[10, 20], [30, 40]])

    def test_full_ignores_the_box(self):
        frame = grey([[10, 20], [30, 40]])
        self.assertEqual(levels(preprocess.resized(frame, [0, 0, 1, 1], replace(SMALL, roi="full"))), [[10, 20], [30, 40]])

    def test_a_box_that_leaves_the_frame_is_refused(self):
        frame = grey([[0, 0], [0, 0]])
        for box in ([0, 0, 3, 1], [-1, 0, 1, 1], [0, 0, 0, 1], [0, 2, 1, 1]):
            with self.assertRaises(ValueError, msg=box):
                preprocess.resized(frame, box, SMALL)

    def test_a_letterbox_keeps_the_aspect_between_bars(self):
        # 4 x 2 into 4 x 5: scale 1, and three rows remain, one above and two below.
        spec = ImageInput(width=4, height=5, resize="letterbox", pad=(7, 7, 7))
        got = levels(preprocess.resized(grey([[1, 2, 3, 4], [5, 6, 7, 8]]), None, spec))
        self.assertEqual(got, [[7] * 4, [1, 2, 3, 4], [5, 6, 7, 8], [7] * 4, [7] * 4])


class Tensors(unittest.TestCase):
    def test_colour_order_layout_and_scale(self):
        image = Image.new("RGB", (1, 1), (10, 20, 30))
        spec = ImageInput(width=1, height=1, mean=(10.0, 10.0, 10.0), std=(10.0, 20.0, 40.0))
        self.assertEqual(preprocess.tensor(image, spec).tolist(), [[[[0.0]], [[0.5]], [[0.5]]]])
        reversed_spec = replace(spec, color="bgr", layout="nhwc")
        self.assertEqual(preprocess.tensor(image, reversed_spec).tolist(), [[[[2.0, 0.5, 0.0]]]])


class Drift(unittest.TestCase):
    def test_brightness_contrast_sharpness(self):
        # One inner pixel: 4 · 90 - 4 · 0 = 360. Mean 10, squares 8100 / 9 - 100 = 800.
        features = preprocess.image_features(grey([[0, 0, 0], [0, 90, 0], [0, 0, 0]]))
        self.assertAlmostEqual(features["image.brightness"], 10.0)
        self.assertAlmostEqual(features["image.contrast"], 800**0.5)
        self.assertAlmostEqual(features["image.sharpness"], 360.0)

    def test_luma_weighs_the_colours(self):
        self.assertAlmostEqual(preprocess.luma(Image.new("RGB", (1, 1), (100, 200, 50)))[0, 0], 29.9 + 117.4 + 5.7)


if __name__ == "__main__":
    unittest.main()
