"""Pack the records of studies into one small archive."""

import argparse
import io
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path

from analysis.command_line import build_parser, run_main
from analysis.studies.selection import select_studies
from wpm.cli.parser import any_path
from wpm.errors import UserError
from wpm.files import write_bytes
from wpm.records import read_records, read_study

DESCRIPTION = """Pack the records of studies into a small archive (.tar.xz), to keep or to pass on.

In it is what the other analysis commands read, and what a search needs to go on elsewhere: plans,
trials, final runs, the journal. Weights, checkpoints, logs and curves for TensorBoard are not.
Unpack it with `tar -xJf FILE`, which makes a run folder of the name of --run-root. There every
analysis command works that needs no models, and the launch that made the records continues; trials
that had not ended begin again. The same records make the same archive.
"""
EXAMPLES = """  python -m analysis.pack --out records.tar.xz
  python -m analysis.pack --dataset omniglot --protocol small --out omniglot.tar.xz
"""
_ENDING = ".tar.xz"


def _pack(args: argparse.Namespace) -> None:
    if not args.out.name.endswith(_ENDING):
        raise UserError(f"--out {args.out}: the archive's name must end with {_ENDING}")
    places = select_studies(args)
    root: Path = args.run_root
    files: dict[str, bytes] = {}
    for place in places:
        read_study(place)  # refuses what is damaged, or of another version
        for path, content in read_records(place):
            files[str(Path(root.resolve().name) / path.relative_to(root))] = content
    write_bytes(args.out, _archive(files))
    print(
        f"{args.out}: {len(places)} {'study' if len(places) == 1 else 'studies'}, {len(files)} "
        f"files, {args.out.stat().st_size / 1e6:.2f} MB"
    )


def _archive(files: dict[str, bytes]) -> bytes:
    """Return a compressed archive in which nothing but names and contents counts."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as archive:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_parser("analysis.pack", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--out", type=any_path, required=True, metavar="FILE", help=f"archive to write ({_ENDING})"
    )
    return run_main(parser, _pack, arguments)


if __name__ == "__main__":
    sys.exit(main())
