"""Golden samples: inputs with the outputs that ONNX Runtime gives for them after the reference preprocessor."""

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wayside_train import preprocess, statistics
from wayside_train.manifest import Manifest
from wayside_train.network import Network
from wayside_train.preprocess import ImageInput

MAX_SAMPLES = 12


@dataclass(frozen=True)
class Sample:
    """One entry of `golden.json`; `input` is a path inside the package, `outputs` maps names to flat float64 arrays."""

    input: str
    roi: list[int] | None
    label: str
    outputs: dict[str, np.ndarray]


def prepare(manifest: Manifest, path: Path, roi: list[int] | None) -> np.ndarray:
    """The network's input for a JPEG or for the CSV of one window."""
    if isinstance(manifest.input, ImageInput):
        return preprocess.tensor(preprocess.resized(preprocess.decode(path), roi, manifest.input), manifest.input)
    return statistics.features(read_window(path), manifest.input.features).astype(np.float32)[None]


def read_window(path: Path) -> dict[str, np.ndarray]:
    """The columns of a CSV, by the names in its header."""
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    return dict(zip(header, np.array(rows, np.float64).T))


def write(package: Path, manifest: Manifest, network: Network, inputs: list[tuple[str, list[int] | None]]) -> None:
    """Runs the network on files that lie in `package` and writes `golden.json`.

    Values keep six significant digits, far below every tolerance.
    """
    if len(inputs) > MAX_SAMPLES:
        raise ValueError(f"{len(inputs)} golden samples; {MAX_SAMPLES} are allowed")
    samples = []
    for name, roi in inputs:
        outputs = network.run(prepare(manifest, package / name, roi))
        label = manifest.answer.labels[int(outputs[manifest.answer.name].argmax())]
        values = {output.name: [float(f"{v:.6g}") for v in outputs[output.name]] for output in manifest.outputs}
        samples.append({"input": name, "roi": roi, "label": label, "outputs": values})
    entries = ",\n".join("  " + json.dumps(sample) for sample in samples)
    (package / "golden.json").write_text('{"samples": [\n' + entries + "\n]}\n")


def read(package: Path) -> list[Sample]:
    """The samples of `golden.json`."""
    raw = json.loads((package / "golden.json").read_text())
    return [
        Sample(s["input"], s["roi"], s["label"], {name: np.array(v, np.float64) for name, v in s["outputs"].items()})
        for s in raw["samples"]
    ]
