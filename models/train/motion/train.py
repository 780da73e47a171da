"""Trains the package `motion`: what a hand-moved IMU does, and whether a magnet disturbs its compass.

    python models/train/motion/train.py [--data DIR] [--output DIR]

Every figure comes from models that have not seen the trial they are judged on.
"""

import csv
import json
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wayside_train import command, scores, window_network, windows  # noqa: E402
from wayside_train.manifest import Manifest, Output, WindowInput  # noqa: E402
from wayside_train.network import Network  # noqa: E402
from wayside_train.windows import Series, Window  # noqa: E402

COLUMNS = (
    ("ax", "m/s2"), ("ay", "m/s2"), ("az", "m/s2"),
    ("gx", "rad/s"), ("gy", "rad/s"), ("gz", "rad/s"),
    ("mx", "uT"), ("my", "uT"), ("mz", "uT"),
)  # fmt: skip
FEATURES = tuple(
    f"{statistic}(norm({sensor}x,{sensor}y,{sensor}z))"
    for sensor in "agm"
    for statistic in ("mean", "std", "min", "max", "rms", "ptp", "mad")
) + tuple(f"{statistic}({column})" for column, _unit in COLUMNS for statistic in ("std", "ptp", "mad"))
INPUT = WindowInput(rows=190, step=95, period="10.504ms", columns=COLUMNS, features=FEATURES)

MOTIONS = ("rest", "rotation", "translation")
MAGNETS = ("undisturbed", "disturbed")
ROTATION, TRANSLATION = (1, 3, 4, 6, 8), (10, 12, 15)
MAGNET = (28, 30, 32, 34, 35)
MOTION_PENALTY, MAGNET_PENALTY = 1e-3, 3e-3
# The accelerometer tells trials apart, not magnets.
MAGNET_SENSORS = ("g", "m")

OUTPUTS = (
    Output("motion", "logits", 0.01, MOTIONS, rtol=0.001),
    Output("magnet", "logits", 0.01, MAGNETS, rtol=0.001),
    Output("embedding", "embedding", 0.002, rtol=0.001),
)
MANIFEST = Manifest("motion", 1, "CC-BY-4.0", "100ms", "features", INPUT, OUTPUTS)
# Trial and first row.
GOLDEN = ((1, 950), (1, 9500), (3, 7600), (6, 8550), (8, 950), (10, 9500), (12, 7600), (15, 8550), (28, 8550), (32, 9500), (35, 7600), (34, 950))  # fmt: skip


def main() -> int:
    arguments = command.parser(__doc__.splitlines()[0])
    arguments.add_argument("--output", type=Path, default=command.ZOO, help="folder of the packages (default: models/zoo)")
    options = arguments.parse_args()

    found = {trial: read(options.data, trial) for trial in ROTATION + TRANSLATION + MAGNET}
    cut = [(trial, window) for trial, series in found.items() for window in windows.cut(series, INPUT.rows, INPUT.step)]
    trials = np.array([trial for trial, _window in cut])
    features = np.array([window.features(FEATURES) for _trial, window in cut])
    moving = np.array([window.column("moving").mean() >= 0.5 for _trial, window in cut])
    motion = np.where(moving, np.where(np.isin(trials, ROTATION), 1, 2), 0)
    magnet = np.isin(trials, MAGNET).astype(int)

    of_motion = ~np.isin(trials, MAGNET)
    motion_logits = windows.held_out_logits(
        features, motion, 3, MOTION_PENALTY, folds(trials, of_motion), np.ones(2 * len(FEATURES), bool)
    )
    magnet_logits = windows.held_out_logits(features, magnet, 2, MAGNET_PENALTY, folds(trials, moving), magnet_columns())
    metrics = {
        "motion": motion_metrics(trials[of_motion], motion[of_motion], motion_logits[of_motion]),
        "magnet": magnet_metrics(trials, magnet, magnet_logits, moving),
    }

    standard = window_network.Standard.of(features)
    embedding = standard.embedding(features)
    all_columns = np.ones(2 * len(FEATURES), bool)
    heads = {
        "motion": windows.fit(embedding[of_motion], motion[of_motion], 3, MOTION_PENALTY, all_columns),
        "magnet": windows.fit(embedding[moving], magnet[moving], 2, MAGNET_PENALTY, magnet_columns()),
    }
    folder = options.output / "motion"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    model = window_network.build(standard, heads)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    samples = {f"trial-{trial:02d}-row-{row:05d}": Window(found[trial], row, INPUT.rows) for trial, row in GOLDEN}
    windows.write_package(folder, MANIFEST, Network(model), samples, features[of_motion], motion_logits[of_motion])
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    write_card(folder, metrics)
    print(json.dumps(metrics, indent=2))
    return 0


def read(data: Path, trial: int) -> Series:
    """Raises `FileNotFoundError` where the trial is missing."""
    paths = sorted((data / "imu").glob(f"{trial:02d}_*.csv"))
    if not paths:
        raise FileNotFoundError(data / "imu" / f"{trial:02d}_*.csv")
    with open(paths[0], newline="") as file:
        header, *rows = csv.reader(file)
    return Series(paths[0].stem, dict(zip(header, np.array(rows, np.float64).T)))


def folds(trials: np.ndarray, fitting: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """One trial judged at a time; fitted on the rows of the others that `fitting` marks."""
    judged = np.unique(trials[fitting])
    return [(trials == trial, fitting & (trials != trial)) for trial in judged]


def magnet_columns() -> np.ndarray:
    """Which columns of the embedding the magnet's head may see."""
    columns = [f"{sensor}{axis}" for sensor in MAGNET_SENSORS for axis in "xyz"]
    return np.tile([any(column in name for column in columns) for name in FEATURES], 2)


def motion_metrics(trials: np.ndarray, truth: np.ndarray, logits: np.ndarray) -> dict:
    predicted = logits.argmax(axis=1)
    counts = scores.confusion(truth, predicted, len(MOTIONS))
    per_trial = {
        int(trial): scores.balanced_accuracy(scores.confusion(truth[trials == trial], predicted[trials == trial], len(MOTIONS)))
        for trial in np.unique(trials)
    }
    return {
        "balanced_accuracy": scores.balanced_accuracy(counts),
        "accuracy": float((truth == predicted).mean()),
        "worst_trial": min(per_trial.values()),
        "per_trial": per_trial,
        "confusion": counts.tolist(),
        "n": len(truth),
        "majority": {"balanced_accuracy": 1 / len(MOTIONS), "accuracy": float(np.bincount(truth).max() / len(truth))},
    }


def magnet_metrics(trials: np.ndarray, truth: np.ndarray, logits: np.ndarray, moving: np.ndarray) -> dict:
    predicted = logits.argmax(axis=1)
    counts = scores.confusion(truth[moving], predicted[moving], len(MAGNETS))
    right = truth == predicted
    per_trial = {int(trial): float(right[moving & (trials == trial)].mean()) for trial in np.unique(trials)}
    majority = np.bincount(truth[moving]).max() / moving.sum()
    return {
        "balanced_accuracy": scores.balanced_accuracy(counts),
        "accuracy": float(right[moving].mean()),
        "auc": scores.auc(truth[moving], (logits[:, 1] - logits[:, 0])[moving]),
        "worst_trial": min(per_trial.values()),
        "per_trial": per_trial,
        "confusion": counts.tolist(),
        "n": int(moving.sum()),
        "with_still_windows": {
            "balanced_accuracy": scores.balanced_accuracy(scores.confusion(truth, predicted, len(MAGNETS))),
            "n": len(truth),
        },
        "majority": {"balanced_accuracy": 1 / len(MAGNETS), "accuracy": float(majority)},
    }


def write_card(folder: Path, metrics: dict) -> None:
    """Fills the template `card.md` beside this script."""
    rows = []
    for name, of in metrics.items():
        trial = min(of["per_trial"], key=of["per_trial"].get)
        rows.append(f"| {name} | {of['balanced_accuracy']:.3f} | {of['accuracy']:.3f} | {of['worst_trial']:.3f} (trial {trial:02d}) | {of['n']} |")
        baseline = of["majority"]
        rows.append(f"| {name}, always the most frequent class | {baseline['balanced_accuracy']:.3f} | {baseline['accuracy']:.3f} | 0 | {of['n']} |")
    template = (Path(__file__).parent / "card.md").read_text()
    trials = [f"| {name} | {trial:02d} | {value:.3f} |" for name, of in metrics.items() for trial, value in of["per_trial"].items()]
    text = template.replace("{rows}", "\n".join(rows)).replace("{trials}", "\n".join(trials))
    text = text.replace("{auc}", f"{metrics['magnet']['auc']:.3f}")
    still = metrics["magnet"]["with_still_windows"]
    (folder / "card.md").write_text(text.replace("{still}", f"{still['balanced_accuracy']:.3f} (n = {still['n']})"))


if __name__ == "__main__":
    sys.exit(main())
