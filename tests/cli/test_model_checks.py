"""Checks with torch: a search space with which every trial would fail is refused before."""

from pathlib import Path

import pytest

from wpm.cli.model_checks import check_parameters
from wpm.errors import UserError
from wpm.rows import PRETRAINED, Row
from wpm.spaces import SPACES_FOLDER, known_losses, load_space, nothing_to_mine

ROWS = [Row(name) for name in known_losses()]
ROWS += [Row(name, "wpm") for name in known_losses() if not nothing_to_mine(name)]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_spaces_that_ship_pass(row: Row) -> None:
    check_parameters(load_space(row), SPACES_FOLDER)


def test_missing_parameter_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "triplet.toml").write_text("[search.marging]\nlow = 0\nhigh = 1\n")
    space = load_space(Row("triplet"), tmp_path)
    with pytest.raises(UserError, match=r"triplet\.toml: row triplet needs a value for margin"):
        check_parameters(space, tmp_path)


@pytest.mark.parametrize(
    "name", [name for name in known_losses() if nothing_to_mine(name) and name != PRETRAINED]
)
def test_loss_without_pairs_is_refused_even_if_its_file_does_not_say_so(
    name: str, tmp_path: Path
) -> None:
    for file in (name, "wpm"):
        text = (SPACES_FOLDER / f"{file}.toml").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith("nothing_to_mine")]
        (tmp_path / f"{file}.toml").write_text("\n".join(lines), encoding="utf-8")
    space = load_space(Row(name, "wpm"), tmp_path)
    with pytest.raises(UserError, match=rf"row {name}\+wpm: .*needs a loss .*; use {name}$"):
        check_parameters(space, tmp_path)
