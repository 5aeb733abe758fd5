"""What of a study is worth keeping for ever: everything but weights, checkpoints and logs."""

from collections.abc import Iterator
from pathlib import Path

from wpm.records.layout import StudyPlace, sorted_folders


def read_records(place: StudyPlace) -> Iterator[tuple[Path, bytes]]:
    """Yield the records of a study, by path and content; a launch may work on it meanwhile.

    Of a training that has not ended only its configuration is a record: without the checkpoint it
    begins again, with the same trial. The journal is read last, since it must know every trial that
    has a record.

    Raises:
        OSError: a file cannot be read.
    """
    finals = place.folder / "finals"
    trainings = sorted_folders(place.folder / "trials")
    files = [place.folder / "study.json", place.folder / "test_access.jsonl"]
    for configuration in sorted_folders(finals):
        files.append(configuration / "final.json")
        for run in sorted_folders(configuration):
            files.append(run / "result.json")
            trainings += sorted_folders(run)
    yield from _read_present(files)
    for folder in trainings:
        names = ["result.json", "trial.json", "reports.json"]
        content = dict(_read_present([folder / name for name in names]))
        if folder / "result.json" not in content:
            content.pop(folder / "reports.json", None)
        yield from content.items()
    for path, data in _read_present([place.journal]):
        yield path, data[: data.rfind(b"\n") + 1]  # a line may be half written


def _read_present(files: list[Path]) -> Iterator[tuple[Path, bytes]]:
    for path in files:
        try:
            yield path, path.read_bytes()
        except FileNotFoundError:
            continue
