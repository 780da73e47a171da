"""Writes pillow.json, pattern.jpg and pattern.rgb: what Pillow makes of small pictures, for tests/pillow.rs.

Run in this folder with Pillow 12 or later; nothing else is needed.
"""

import json
from math import floor
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 41, 29


def frame() -> Image.Image:
    """The same picture that tests/pillow.rs draws."""
    image = Image.new("RGB", (WIDTH, HEIGHT))
    image.putdata([((x * 7 + y * 13) % 256, (x * x + 3 * y) % 256, (x * y * 5 + 40) % 256) for y in range(HEIGHT) for x in range(WIDTH)])
    return image


def resized(roi, size, resize, filter):
    image = frame()
    if roi is not None:
        x, y, w, h = roi
        image = image.crop((x, y, x + w, y + h))
    method = {"bilinear": Image.Resampling.BILINEAR, "nearest": Image.Resampling.NEAREST}[filter]
    if resize == "stretch":
        return image.resize(size, method)
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = tuple(max(1, floor(side * scale + 0.5)) for side in image.size)
    box = Image.new("RGB", size, (9, 8, 7))
    box.paste(image.resize(inner, method), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return box


cases = []
for roi in (None, [5, 3, 30, 11], [40, 28, 1, 1], [5, 3, 6, 4]):
    for size in ((12, 9), (9, 12), (20, 15)):
        for resize in ("stretch", "letterbox"):
            for filter in ("bilinear", "nearest"):
                if size != (12, 9) and roi not in ([5, 3, 30, 11], [5, 3, 6, 4]):
                    continue
                pixels = resized(roi, size, resize, filter).tobytes().hex()
                cases.append({"roi": roi, "width": size[0], "height": size[1], "resize": resize, "filter": filter, "pixels": pixels})
Path("pillow.json").write_text(json.dumps(cases, separators=(",", ":")).replace("},{", "},\n{") + "\n")

smooth = Image.new("RGB", (48, 35))
smooth.putdata([(40 + 4 * x, 220 - 5 * y, 128 + (x - y) * 2) for y in range(35) for x in range(48)])
smooth.save("pattern.jpg", quality=90, subsampling="4:2:0")
Path("pattern.rgb").write_bytes(Image.open("pattern.jpg").convert("RGB").tobytes())
smooth.convert("L").save("grey.jpg", quality=90)
smooth.save("progressive.jpg", quality=90, progressive=True)
