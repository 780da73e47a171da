"""Trains the vehicle heads again and compares them with the committed ones.

    python models/train/vehicles/check.py [--data DIR] [--zoo DIR]

Pictures 1 to 500 of each class are enough. Exit status 1 where a number of the head or of the standardisation before
it differs by more than 1e-4.
"""

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from onnx import numpy_helper  # noqa: E402
from train import PACKAGES  # noqa: E402
from training import Training  # noqa: E402
from wayside_train import command, network  # noqa: E402

LIMIT = 1e-4


def main() -> int:
    arguments = command.parser(__doc__.splitlines()[0])
    arguments.add_argument("--zoo", type=Path, default=command.ZOO, help="folder of the packages (default: models/zoo)")
    options = arguments.parse_args()

    training = Training.read(options.data)
    worst = 0.0
    for package in PACKAGES:
        committed = initializers(network.load(options.zoo / package.folder))
        again = initializers(training.standard.model(training.head(package.penalty)))
        for name in (network.WEIGHT, network.BIAS, "embedding.center", "embedding.scale"):
            difference = float(np.abs(committed[name] - again[name]).max())
            print(f"{package.folder}: {name} differs by at most {difference:.1e}")
            worst = max(worst, difference)
    print(f"limit {LIMIT:.0e}: {'same' if worst <= LIMIT else 'DIFFERENT'}")
    return 0 if worst <= LIMIT else 1


def initializers(model) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


if __name__ == "__main__":
    sys.exit(main())
