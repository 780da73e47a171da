"""Trains the vehicle packages: `vehicles` and, as a head alone with another penalty, `vehicles-refit`.

    python models/train/vehicles/train.py [--data DIR] [--output DIR]

Everything is chosen and fitted on pictures 1 to 500 of each class. Where the folder also holds 501 to 600, they are
read once, at the end, for the card and `metrics.json`.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import golden_frames  # noqa: E402
import pictures  # noqa: E402
from backbone import INPUT  # noqa: E402
from pictures import CHOOSING, HOLD_OUT, LABELS  # noqa: E402
from training import Training  # noqa: E402
from wayside_train import command, golden, network, preprocess, reference  # noqa: E402
from wayside_train.manifest import Manifest, Output  # noqa: E402
from wayside_train.network import Network  # noqa: E402

BASE = "vehicles"
LICENCE = "Apache-2.0 AND CC-BY-4.0"


@dataclass(frozen=True)
class Package:
    """What distinguishes the packages; the tolerances follow from what `check_golden.py` measures."""

    folder: str
    version: int
    penalty: float
    logits_atol: float
    embedding_atol: float = 2.5

    @property
    def manifest(self) -> Manifest:
        outputs = (
            Output("logits", "logits", self.logits_atol, LABELS),
            Output("embedding", "embedding", self.embedding_atol),
        )
        return Manifest("vehicles", self.version, LICENCE, "500ms", "image", INPUT, outputs)


PACKAGES = (
    Package("vehicles", version=1, penalty=0.002, logits_atol=0.4),
    Package("vehicles-refit", version=2, penalty=0.02, logits_atol=0.28),
)
GOLDEN_PICTURES = (
    "bike/0017", "bike/0377", "car/0033", "car/0136", "juggernaut/0111",
    "juggernaut/0410", "minibus/0215", "minibus/0480", "pickup/0150", "truck/0305",
)  # fmt: skip


def main() -> int:
    arguments = command.parser(__doc__.splitlines()[0])
    arguments.add_argument("--output", type=Path, default=command.ZOO, help="folder of the packages (default: models/zoo)")
    options = arguments.parse_args()

    training = Training.read(options.data)
    has_hold_out = (options.data / "vehicles" / LABELS[0] / f"{HOLD_OUT[0]:04d}.jpg").exists()
    for package in PACKAGES:
        folder = options.output / package.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        package.manifest.write(folder)

        fitted = training.head(package.penalty)
        model = training.standard.model(fitted)
        if package.folder == BASE:
            (folder / "model.onnx").write_bytes(model.SerializeToString())
        else:
            network.save_head(folder, f"../{BASE}", fitted[:, :-1], fitted[:, -1])
        runnable = Network(model)
        golden.write(folder, package.manifest, runnable, write_golden_inputs(folder, options.data))

        logits = training.out_of_block_logits(package.penalty)
        reference.write(folder, training.image | reference.answer_features(logits, training.embeddings))
        metrics = {"blocks": block_metrics(training.block_accuracies(logits))}
        if has_hold_out:
            metrics["hold_out"] = hold_out_metrics(options.data, runnable)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        write_card(folder, package, metrics)
        print(f"{package.folder}: accuracy {metrics['blocks']['mean']:.4f}, worst block {metrics['blocks']['worst']:.4f}")
    return 0


def write_golden_inputs(folder: Path, data: Path) -> list[tuple[str, list[int] | None]]:
    """Copies the pictures byte by byte, draws the frames; returns each file with its ROI."""
    (folder / "golden").mkdir()
    inputs = []
    for name in GOLDEN_PICTURES:
        inputs.append((f"golden/{name.replace('/', '-')}.jpg", None))
        shutil.copyfile(data / "vehicles" / f"{name}.jpg", folder / inputs[-1][0])
    for frame in golden_frames.FRAMES:
        inputs.append((f"golden/{frame.name}.jpg", frame.roi))
        frame.draw(data / "vehicles").save(folder / inputs[-1][0], quality=90)
    return inputs


def block_metrics(accuracies: list[float]) -> dict:
    per_block = len(CHOOSING) // len(accuracies)
    return {
        "pictures": f"{CHOOSING[0]}-{CHOOSING[-1]}",
        "accuracies": accuracies,
        "worst": min(accuracies),
        "mean": float(np.mean(accuracies)),
        "n_each": per_block * len(LABELS),
    }


def hold_out_metrics(data: Path, runnable: Network) -> dict:
    """Accuracy on pictures 501 to 600: in all, per class, and without near-twins of pictures 1 to 500."""
    held_out = pictures.listed(data, HOLD_OUT)
    right = []
    for picture in held_out:
        image = preprocess.resized(preprocess.decode(picture.path), None, INPUT)
        right.append(runnable.run(preprocess.tensor(image, INPUT))["logits"].argmax() == picture.label)
    right = np.array(right)
    label = np.array([picture.label for picture in held_out])
    twins = pictures.have_twins(held_out, pictures.listed(data, CHOOSING))

    def share(of):
        return {"accuracy": float(right[of].mean()), "n": int(of.sum())}

    return {
        "pictures": f"{HOLD_OUT[0]}-{HOLD_OUT[-1]}",
        **share(np.ones_like(right)),
        "per_class": {name: share(label == index) for index, name in enumerate(LABELS)},
        "without_twins": share(~twins),
        "per_class_without_twins": {name: share((label == index) & ~twins) for index, name in enumerate(LABELS)},
    }


def write_card(folder: Path, package: Package, metrics: dict) -> None:
    """Fills the template `card.md` beside this script."""
    rows = [f"| block of pictures {100 * i + 1}–{100 * i + 100}, head fitted on the other four | {accuracy:.3f} | {metrics['blocks']['n_each']} |"
            for i, accuracy in enumerate(metrics["blocks"]["accuracies"])]  # fmt: skip
    if "hold_out" in metrics:
        held_out = metrics["hold_out"]
        named = [("501–600, read once", held_out), ("501–600 without near-twins", held_out["without_twins"])]
        named += [(f"501–600, {name}", held_out["per_class"][name]) for name in LABELS]
        named += [(f"501–600 without near-twins, {name}", held_out["per_class_without_twins"][name]) for name in LABELS]
        rows += [f"| {name} | {share['accuracy']:.3f} | {share['n']} |" for name, share in named]
    template = (Path(__file__).parent / "card.md").read_text()
    text = template.replace("{version}", str(package.version)).replace("{penalty}", str(package.penalty))
    text = text.replace("{rows}", "\n".join(rows))
    (folder / "card.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
