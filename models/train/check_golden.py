"""Prints, for each package named, what planted faults and harmless noise do to its golden samples.

    python models/train/check_golden.py models/zoo/*/

Exit status 1 where a fault would be accepted or noise refused.
"""

import sys
from pathlib import Path

from wayside_train import faults


def main() -> int:
    wrong = 0
    for package in map(Path, sys.argv[1:]):
        findings = faults.examine(package)
        print(f"## {package.name}\n\n{faults.table(findings)}\n")
        for finding in findings:
            if not finding.as_wanted:
                print(f"NOT AS WANTED: {finding.trial.name}\n")
                wrong += 1
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
