"""What every trainer's command line shares."""

import argparse
import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
ZOO = REPOSITORY / "models" / "zoo"


def parser(description: str) -> argparse.ArgumentParser:
    """A parser with `--data`, the folder that README.md describes."""
    arguments = argparse.ArgumentParser(description=description)
    arguments.add_argument(
        "--data",
        type=Path,
        default=Path(os.environ.get("WAYSIDE_TEST_DATA", REPOSITORY.parent / "shared" / "data")),
        help="folder with vehicles/, imu/, climate/ (default: $WAYSIDE_TEST_DATA, else ../shared/data)",
    )
    return arguments
