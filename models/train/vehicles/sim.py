"""Trains the packages for drawn scenes, `vehicles-sim` and `vehicles-sim-refit`: heads on the backbone of `vehicles`.

    cargo build -p wayside-agent --example draw_scenes
    python models/train/vehicles/sim.py [--draw-scenes PROGRAM] [--output DIR]

The scenes are drawn here, with the true box as ROI. They test plumbing and drift, never quality.
"""

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from backbone import INPUT  # noqa: E402
from pictures import LABELS  # noqa: E402
from train import BASE  # noqa: E402
from wayside_train import command, golden, head, network, preprocess, reference  # noqa: E402
from wayside_train.manifest import Manifest, Output  # noqa: E402
from wayside_train.network import Network  # noqa: E402

DRAW_SCENES = command.REPOSITORY / "target" / "debug" / "examples" / "draw_scenes"
# Streets by day in clear air to fit on; other streets, in every light and weather, to judge on.
FITTED = ("--seed", "1000", "--streets", "50", "--count", "1500", "--light", "day", "--weather", "clear")
JUDGED_FROM, JUDGED_STREETS, JUDGED_COUNT = 5000, 27, 540
LIGHTS, WEATHERS = ("day", "dusk", "night"), ("clear", "rain", "fog")
FOLDS = 5
LICENCE = "Apache-2.0 AND CC-BY-4.0"
# Flat areas of a drawing move a few features far when a resizer rounds otherwise.
EMBEDDING_ATOL = 6.0


@dataclass(frozen=True)
class Package:
    folder: str
    version: int
    penalty: float
    logits_atol: float

    @property
    def manifest(self) -> Manifest:
        outputs = (Output("logits", "logits", self.logits_atol, LABELS), Output("embedding", "embedding", EMBEDDING_ATOL))
        return Manifest("vehicles-sim", self.version, LICENCE, "500ms", "image", INPUT, outputs)


PACKAGES = (
    Package("vehicles-sim", version=1, penalty=0.002, logits_atol=0.28),
    Package("vehicles-sim-refit", version=2, penalty=0.02, logits_atol=0.24),
)


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes with truth: files, boxes, labels [n], streets [n], embeddings [n, 1824], drift features [n]."""

    files: list[Path]
    boxes: list[list[int]]
    labels: np.ndarray
    streets: np.ndarray
    embeddings: np.ndarray
    image: dict[str, np.ndarray]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--draw-scenes", type=Path, default=DRAW_SCENES, help=f"the built example (default: {DRAW_SCENES})")
    arguments.add_argument("--output", type=Path, default=command.ZOO, help="folder of the packages (default: models/zoo)")
    options = arguments.parse_args()
    if not options.draw_scenes.exists():
        print(f"error: no {options.draw_scenes}: cargo build -p wayside-agent --example draw_scenes")
        return 1

    backbone = network.load(options.output / BASE)
    with tempfile.TemporaryDirectory() as folder:
        fitted = drawn(options.draw_scenes, Path(folder) / "fitted", FITTED, Network(backbone))
        other = ("--seed", str(JUDGED_FROM), "--streets", str(JUDGED_STREETS), "--count", str(JUDGED_COUNT))
        judged = drawn(options.draw_scenes, Path(folder) / "judged", (*other, "--light", "mixed", "--weather", "mixed"), Network(backbone))
        for package in PACKAGES:
            write(options.output / package.folder, package, backbone, fitted, judged)
    return 0


def drawn(program: Path, folder: Path, arguments: tuple[str, ...], backbone: Network) -> Scenes:
    """Raises `CalledProcessError` where the program fails."""
    subprocess.run([program, "--out", folder, *arguments], check=True)
    with open(folder / "truth.csv", newline="") as file:
        truth = list(csv.DictReader(file))
    boxes = [[int(row[name]) for name in "xywh"] for row in truth]
    embeddings, image = [], []
    for row, box in zip(truth, boxes):
        resized = preprocess.resized(preprocess.decode(folder / row["file"]), box, INPUT)
        image.append(preprocess.image_features(resized))
        embeddings.append(backbone.run(preprocess.tensor(resized, INPUT))["embedding"])
    return Scenes(
        [folder / row["file"] for row in truth],
        boxes,
        np.array([LABELS.index(row["label"]) for row in truth]),
        np.array([int(row["file"].split("-")[0]) for row in truth]),
        np.array(embeddings),
        {name: np.array([features[name] for features in image]) for name in image[0]},
    )


def write(folder: Path, package: Package, backbone, fitted: Scenes, judged: Scenes) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "golden").mkdir(parents=True)
    package.manifest.write(folder)
    whole = head.fit(fitted.embeddings, fitted.labels, len(LABELS), package.penalty)
    network.save_head(folder, f"../{BASE}", whole[:, :-1], whole[:, -1])

    inputs = []
    for index in (int(np.flatnonzero(judged.labels == label)[0]) for label in range(len(LABELS))):
        inputs.append((f"golden/{LABELS[judged.labels[index]]}-{judged.files[index].name}", judged.boxes[index]))
        shutil.copyfile(judged.files[index], folder / inputs[-1][0])
    golden.write(folder, package.manifest, Network(network.with_head(backbone, whole[:, :-1], whole[:, -1])), inputs)

    logits = out_of_street_logits(fitted, package.penalty)
    reference.write(folder, fitted.image | reference.answer_features(logits, fitted.embeddings))
    metrics = score(fitted, logits, judged, head.logits(judged.embeddings, whole))
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    rows = [("streets to fit on, day, clear, fitted without the street", metrics["scenes"])]
    rows += [(f"other streets, {name}", of) for name, of in metrics["other_streets"].items()]
    text = (Path(__file__).parent / "card-sim.md").read_text()
    text = text.replace("{version}", str(package.version)).replace("{penalty}", str(package.penalty))
    table = "\n".join(f"| {name} | {of['accuracy']:.3f} | {of['n']} |" for name, of in rows)
    (folder / "card.md").write_text(text.replace("{rows}", table))
    print(f"{package.folder}: {metrics['scenes']['accuracy']:.4f} on scenes by day")


def out_of_street_logits(scenes: Scenes, penalty: float) -> np.ndarray:
    """Each scene's logits from a head that was fitted without its street."""
    result = np.empty((len(scenes.labels), len(LABELS)))
    for fold in range(FOLDS):
        held_out = scenes.streets % FOLDS == fold
        fitted = head.fit(scenes.embeddings[~held_out], scenes.labels[~held_out], len(LABELS), penalty)
        result[held_out] = head.logits(scenes.embeddings[held_out], fitted)
    return result


def score(fitted: Scenes, logits: np.ndarray, judged: Scenes, judged_logits: np.ndarray) -> dict:
    right = judged_logits.argmax(axis=1) == judged.labels
    street = judged.streets - JUDGED_FROM
    strata = {}
    for weather, weather_name in enumerate(WEATHERS):
        for light, light_name in enumerate(LIGHTS):
            rows = (street % 3 == light) & (street // 3 % 3 == weather)
            strata[f"{light_name}, {weather_name}"] = {"accuracy": float(right[rows].mean()), "n": int(rows.sum())}
    accuracy = float((logits.argmax(axis=1) == fitted.labels).mean())
    return {"scenes": {"accuracy": accuracy, "n": len(fitted.labels)}, "other_streets": strata}


if __name__ == "__main__":
    sys.exit(main())
