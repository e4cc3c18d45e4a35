"""`make fuzz SECONDS=N`: every harness for N seconds, one JSON line each; findings are kept.

Corpora and findings lie under build/fuzz/HARNESS and are taken up again by the next run.
"""

import argparse
import json
import sys
from pathlib import Path

from tests.support.fuzz_harnesses import HARNESSES
from tests.support.fuzzing import fuzz


def main() -> int:
    """Returns 1 where a harness found something."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=Path("build/fuzz"))
    parser.add_argument("names", nargs="*", help="harnesses; all of them if none is named")
    options = parser.parse_args()
    crashes = 0
    for harness in HARNESSES:
        if options.names and harness.name not in options.names:
            continue
        folder = options.directory / harness.name
        result = fuzz(harness, folder, seconds=options.seconds, seed=options.seed)
        report = result.pop("report")
        print(json.dumps(result), flush=True)
        if result["crashes"]:
            crashes += 1
            print(f"{report}\nkept under {folder / 'crashes'}", file=sys.stderr)
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
