"""Trains the packages `room-th` (temperature and humidity) and `room-full` (light and CO2 too): is the room occupied?

    python models/train/room/train.py [--data DIR] [--output DIR]

Every figure comes from models that have not seen the date they are judged on.
"""

import csv
import json
import shutil
import sys
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from wayside_train import command, scores, window_network, windows  # noqa: E402
from wayside_train.manifest import Manifest, Output, WindowInput  # noqa: E402
from wayside_train.network import Network  # noqa: E402
from wayside_train.windows import Series, Window  # noqa: E402

FILES = ("occupancy_train.txt", "occupancy_test.txt")
# As in the rows; the header of the training file lacks the name of the first.
FIELDS = ("row", "date", "temperature", "humidity", "light", "co2", "humidity_ratio", "occupied")
UNITS = {"temperature": "degC", "humidity": "%RH", "light": "lux", "co2": "ppm"}
STATISTICS = ("last", "delta", "mean", "std", "min", "max", "ptp", "mad")
LABELS = ("empty", "occupied")
ROWS = 16
LONGEST_STEP = timedelta(seconds=90)
LIGHT_THRESHOLD = 365.0  # lux

OUTPUTS = (
    Output("logits", "logits", 0.01, LABELS, rtol=0.001),
    Output("embedding", "embedding", 0.002, rtol=0.001),
)
# Ends of the golden windows.
GOLDEN = (
    "2015-02-03 03:00", "2015-02-03 09:30", "2015-02-03 12:00", "2015-02-03 18:15", "2015-02-05 08:10",
    "2015-02-05 15:00", "2015-02-06 18:30", "2015-02-07 13:00", "2015-02-08 12:00", "2015-02-09 16:00",
)  # fmt: skip


@dataclass(frozen=True)
class Package:
    folder: str
    columns: tuple[str, ...]
    penalty: float

    @property
    def manifest(self) -> Manifest:
        features = tuple(f"{statistic}({column})" for column in self.columns for statistic in STATISTICS)
        columns = tuple((column, UNITS[column]) for column in self.columns)
        model_input = WindowInput(rows=ROWS, step=1, period="1m", columns=columns, features=features)
        return Manifest(self.folder, 1, "CC-BY-4.0", "100ms", "features", model_input, OUTPUTS)


PACKAGES = (
    Package("room-th", ("temperature", "humidity"), penalty=0.1),
    Package("room-full", ("temperature", "humidity", "light", "co2"), penalty=0.01),
)


def main() -> int:
    arguments = command.parser(__doc__.splitlines()[0])
    arguments.add_argument("--output", type=Path, default=command.ZOO, help="folder of the packages (default: models/zoo)")
    options = arguments.parse_args()

    cut = [window for series in read(options.data) for window in windows.cut(series, ROWS, 1)]
    occupied = np.array([int(window.column("occupied")[-1]) for window in cut])
    ends = np.array([window.column("minute")[-1] for window in cut])
    folds = date_folds(cut)
    baselines = {
        "majority": date_scores(occupied, np.zeros_like(occupied), folds),
        "light_threshold": date_scores(occupied, np.array([int(w.column("light")[-1] > LIGHT_THRESHOLD) for w in cut]), folds),
    }
    for package in PACKAGES:
        manifest = package.manifest
        features = np.array([window.features(manifest.input.features) for window in cut])
        used = np.ones(2 * features.shape[1], bool)
        logits = windows.held_out_logits(features, occupied, 2, package.penalty, list(folds.values()), used)
        metrics = {**date_scores(occupied, logits.argmax(axis=1), folds), "baselines": baselines}

        standard = window_network.Standard.of(features)
        fitted = windows.fit(standard.embedding(features), occupied, 2, package.penalty, used)
        folder = options.output / package.folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        model = window_network.build(standard, {"logits": fitted})
        (folder / "model.onnx").write_bytes(model.SerializeToString())
        samples = {text.replace(" ", "-").replace(":", ""): cut[nearest(ends, text)] for text in GOLDEN}
        windows.write_package(folder, manifest, Network(model), samples, features, logits)
        (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
        write_card(folder, package, metrics)
        print(f"{package.folder}: balanced accuracy {metrics['balanced_accuracy']:.4f}, MCC {metrics['mcc']:.4f}")
    return 0


def read(data: Path) -> list[Series]:
    """The rows of both files, cut where time jumps. `minute` is minutes since 1970 in the recording's own time.

    Raises `FileNotFoundError` for a missing file, `ValueError` for a row of another length.
    """
    series = []
    for name in FILES:
        with open(data / "climate" / name, newline="") as file:
            _header, *rows = csv.reader(file)
        if any(len(row) != len(FIELDS) for row in rows):
            raise ValueError(f"{name}: a row has not {len(FIELDS)} fields")
        times = [datetime.fromisoformat(row[FIELDS.index("date")]) for row in rows]
        jumps = [i for i in range(1, len(rows)) if not timedelta(0) < times[i] - times[i - 1] <= LONGEST_STEP]
        for start, end in zip([0, *jumps], [*jumps, len(rows)]):
            part = rows[start:end]
            columns = {field: np.array([float(row[FIELDS.index(field)]) for row in part]) for field in (*UNITS, "occupied")}
            columns["minute"] = np.array([(time - datetime(1970, 1, 1)) / timedelta(minutes=1) for time in times[start:end]])
            series.append(Series(name, columns))
    return series


def date_folds(cut: list[Window]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For each date the windows that end on it, and those that do not touch it."""
    first, last = (np.array([int(window.column("minute")[row] // (24 * 60)) for window in cut]) for row in (0, -1))
    return {
        (datetime(1970, 1, 1) + timedelta(days=int(day))).date().isoformat(): (last == day, (first != day) & (last != day))
        for day in np.unique(last)
    }


def date_scores(truth: np.ndarray, predicted: np.ndarray, folds: dict) -> dict:
    """Scores over all held-out dates together, and the accuracy of each."""
    counts = scores.confusion(truth, predicted, len(LABELS))
    return {
        "balanced_accuracy": scores.balanced_accuracy(counts),
        "mcc": scores.matthews(counts),
        "accuracy": float((truth == predicted).mean()),
        "per_date": {date: float((truth == predicted)[judged].mean()) for date, (judged, _fitted) in folds.items()},
        "confusion": counts.tolist(),
        "n": len(truth),
    }


def nearest(ends: np.ndarray, text: str) -> int:
    """The window that ends nearest to a time."""
    return int(np.abs(ends - (datetime.fromisoformat(text) - datetime(1970, 1, 1)) / timedelta(minutes=1)).argmin())


def write_card(folder: Path, package: Package, metrics: dict) -> None:
    """Fills the template `card.md` beside this script."""
    rows = [
        f"| {name} | {of['balanced_accuracy']:.3f} | {of['mcc']:.3f} | {of['accuracy']:.3f} | {of['n']} |"
        for name, of in (
            (f"`{package.folder}`", metrics),
            ("always empty (the majority)", metrics["baselines"]["majority"]),
            (f"light > {LIGHT_THRESHOLD:.0f} lux", metrics["baselines"]["light_threshold"]),
        )
    ]
    dates = [
        f"| {date} | {accuracy:.3f} | {metrics['baselines']['majority']['per_date'][date]:.3f} "
        f"| {metrics['baselines']['light_threshold']['per_date'][date]:.3f} |"
        for date, accuracy in metrics["per_date"].items()
    ]
    text = (Path(__file__).parent / "card.md").read_text()
    for name, value in {
        "name": package.folder,
        "columns": ", ".join(package.columns),
        "count": str(len(package.manifest.input.features)),
        "width": str(2 * len(package.manifest.input.features)),
        "penalty": str(package.penalty),
        "rows": "\n".join(rows),
        "dates": "\n".join(dates),
    }.items():
        text = text.replace(f"{{{name}}}", value)
    (folder / "card.md").write_text(text)


if __name__ == "__main__":
    sys.exit(main())
