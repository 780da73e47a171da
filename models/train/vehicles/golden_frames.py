"""Draws the golden frames: 1280 × 720 pictures in which a pasted vehicle fills a box that is far from square.

They are made to tell preprocessing faults apart: saturated colours (RGB or BGR), a long box (stretch or letterbox),
fine stripes inside it (bilinear or nearest), different things on each side of it (a shifted box). They say nothing
about quality.
"""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

WIDTH, HEIGHT = 1280, 720


@dataclass(frozen=True)
class Frame:
    """A street with a picture stretched over `roi` = [x, y, width, height]; the rest are Pillow's colour names."""

    name: str
    picture: str
    roi: list[int]
    sky: str
    ground: str
    left: str
    right: str

    def draw(self, vehicles: Path) -> Image.Image:
        """`vehicles` is the folder with one folder a class."""
        x, y, width, height = self.roi
        frame = Image.new("RGB", (WIDTH, HEIGHT), self.sky)
        pen = ImageDraw.Draw(frame)
        pen.rectangle([0, HEIGHT // 2, WIDTH, HEIGHT], fill=self.ground)
        pen.rectangle([0, HEIGHT // 5, x, HEIGHT * 4 // 5], fill=self.left)
        pen.rectangle([x + width, HEIGHT // 4, WIDTH, HEIGHT * 5 // 6], fill=self.right)
        for window in range(40, WIDTH, 90):
            pen.rectangle([window, HEIGHT // 3, window + 34, HEIGHT // 3 + 60], fill="khaki", outline="black")
        for dash in range(0, WIDTH, 160):
            pen.polygon([(dash, 650), (dash + 90, 650), (dash + 70, 670), (dash - 20, 670)], fill="white")
        with Image.open(vehicles / f"{self.picture}.jpg") as vehicle:
            frame.paste(vehicle.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), (x, y))
        for bar in range(x, x + width // 3, 4):
            pen.line([(bar, y + height * 3 // 4), (bar, y + height - 1)], fill="red" if bar % 8 else "white", width=2)
        pen.rectangle([x + width - width // 8, y, x + width - 1, y + height // 5], fill="blue")
        return frame


FRAMES = (
    Frame("frame-wide", "car/0033", [233, 391, 452, 187], "deepskyblue", "dimgray", "firebrick", "seagreen"),
    Frame("frame-tall", "truck/0305", [611, 203, 210, 430], "orange", "slategray", "navy", "gold"),
)
