"""List the wrong inputs and what each prints: `python -m tests.wrong_inputs`."""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.wrong_inputs.attempt import find_troubles, try_input
from tests.wrong_inputs.cases import WRONG_INPUTS
from tests.wrong_inputs.stage import copy_stage, make_stage
from tests.wrong_inputs.wrong_input import describe


def main() -> int:
    """Try all and print a table; exit code 1 if one was not refused as it should be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-ray", action="store_true", help="leave out those that start Ray")
    args = parser.parse_args()
    chosen = [wrong for wrong in WRONG_INPUTS if not (args.no_ray and wrong.starts_ray)]
    bad = 0
    print("| | input | exit code | what it printed |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        template = make_stage(Path(folder) / "template")
        for number, wrong in enumerate(chosen, 1):
            stage = copy_stage(template, Path(folder) / f"t{number}")
            answer = try_input(wrong, stage)
            troubles = find_troubles(wrong, answer)
            bad += bool(troubles)
            said = answer.err.strip().replace(str(stage.tmp), "TMP").replace("|", "\\|")
            said = said.replace("\n", "<br>")
            print(f"| {number} | {describe(wrong)} | {answer.code} | {said} |")
            for trouble in troubles:
                print(f"| | **{trouble}** | | |")
    print(f"\n{len(chosen)} wrong inputs, {bad} not refused as they should be")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
