"""Search spaces: the files that ship hold the published ranges, and bad files are refused."""

import math
from pathlib import Path

import pytest

from wpm.errors import UserError
from wpm.rows import Row
from wpm.spaces import Range, known_losses, load_space, load_spaces, nothing_to_mine

# Ranges of MLRC's searches, from published/search_ranges.csv: low, high, scale, type.
LOG_LR = (1e-6, 1.0, "log", "float")
PUBLISHED_RANGES = {
    "contrastive": {
        "pos_margin": (-0.2, 2.0, "linear", "float"),
        "neg_margin": (-0.2, 2.0, "linear", "float"),
    },
    "triplet": {"margin": (-0.2, 2.0, "linear", "float")},
    "ntxent": {"temperature": (1e-4, 100.0, "log", "float")},
    "proxy_nca": {"metric_loss_lr": LOG_LR, "softmax_scale": (0.01, 100.0, "linear", "float")},
    "margin": {
        "metric_loss_lr": LOG_LR,
        "margin": (-0.2, 2.0, "linear", "float"),
        "beta": (-0.2, 2.0, "linear", "float"),
    },
    "margin_per_class": {
        "metric_loss_lr": LOG_LR,
        "margin": (-0.2, 2.0, "linear", "float"),
        "beta": (-0.2, 2.0, "linear", "float"),
    },
    "normalized_softmax": {"metric_loss_lr": LOG_LR, "temperature": (0.01, 100.0, "log", "float")},
    "cosface": {
        "metric_loss_lr": LOG_LR,
        "margin": (0.0, 1.0, "linear", "float"),
        "scale": (0.01, 200.0, "linear", "float"),
    },
    "arcface": {
        "metric_loss_lr": LOG_LR,
        "margin": (0.0, 90.0, "linear", "float"),
        "scale": (0.01, 200.0, "linear", "float"),
    },
    "fast_ap": {"num_bins": (2.0, 250.0, "linear", "int")},
    "snr_contrastive": {
        "pos_margin": (0.0, 2.0, "linear", "float"),
        "neg_margin": (0.0, 2.0, "linear", "float"),
        "regularizer_weight": (0.0, 1.0, "linear", "float"),
    },
    "multi_similarity": {
        "alpha": (0.01, 100.0, "linear", "float"),
        "beta": (0.01, 100.0, "linear", "float"),
        "base": (0.0, 1.0, "linear", "float"),
    },
    "multi_similarity_miner": {
        "alpha": (0.01, 100.0, "linear", "float"),
        "beta": (0.01, 100.0, "linear", "float"),
        "base": (0.0, 1.0, "linear", "float"),
        "epsilon": (0.0, 1.0, "linear", "float"),
    },
    "soft_triple": {
        "metric_loss_lr": LOG_LR,
        "la": (0.01, 100.0, "linear", "float"),
        "gamma": (0.01, 100.0, "linear", "float"),
        "reg_weight": (0.0, 1.0, "linear", "float"),
        "margin": (0.0, 1.0, "linear", "float"),
    },
}
PUBLISHED_THRESHOLDS = {"embedding_dropout": 0.05, "channel_dropout": 0.1, "sharpness": 32.0}
GOOD = '[search.margin]\nlow = 0\nhigh = 1\nreason = "x"\n'


def write_space(folder: Path, text: str, name: str = "triplet") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return path


def error_of(folder: Path, row: str = "triplet") -> str:
    with pytest.raises(UserError) as caught:
        load_space(Row.parse(row), folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


# The files that ship


@pytest.mark.parametrize("name", known_losses())
def test_every_file_loads_with_reasons(name: str) -> None:
    space = load_space(Row(name))
    assert str(space.row) == name
    assert bool(space.searched) == space.row.is_trained
    for parameter, limits in space.searched.items():
        assert limits.low < limits.high, parameter
        assert limits.reason, parameter


@pytest.mark.parametrize("name", PUBLISHED_RANGES)
def test_ranges_are_the_published_ones(name: str) -> None:
    searched = load_space(Row(name)).searched
    found = {key: (r.low, r.high, r.scale, r.type) for key, r in searched.items()}
    assert found == PUBLISHED_RANGES[name]


@pytest.mark.parametrize("name", [n for n in known_losses() if not nothing_to_mine(n)])
def test_mining_adds_exactly_its_three_thresholds(name: str) -> None:
    plain, mined = load_space(Row(name)), load_space(Row(name, "wpm"))
    added = mined.searched.keys() - plain.searched.keys()
    assert added == PUBLISHED_THRESHOLDS.keys()
    assert {k: v for k, v in mined.searched.items() if k not in added} == plain.searched
    assert (mined.fixed, mined.published) == (plain.fixed, plain.published)
    for threshold, value in PUBLISHED_THRESHOLDS.items():
        limits = mined.searched[threshold]
        assert limits.low < value < limits.high


def test_published_thresholds_are_the_methods() -> None:
    plain, mined = load_spaces([Row("triplet"), Row("triplet", "wpm")])
    assert mined.thresholds == PUBLISHED_THRESHOLDS
    assert plain.thresholds == {}


@pytest.mark.parametrize(
    ("name", "dataset", "source", "expected"),
    [
        ("triplet", "cars196", "mlrc", {"margin": 0.11902737154413517}),
        ("ntxent", "sop", "mlrc", {"temperature": 0.00024011856920638322}),
        (
            "margin",
            "cub200",
            "mlrc",
            {
                "metric_loss_lr": 0.0013149455388326019,
                "margin": 0.08780730856882307,
                "beta": 0.7838655471893237,
            },
        ),
        (
            "multi_similarity",
            "cub200",
            "mlrc",
            {
                "alpha": 0.010000000000000505,
                "beta": 50.601773762279336,
                "base": 0.5624815816186126,
            },
        ),
    ],
)
def test_published_points_are_on_file(
    name: str, dataset: str, source: str, expected: dict[str, float]
) -> None:
    points = load_space(Row(name)).published
    found = [p.parameters for p in points if (p.dataset, p.source) == (dataset, source)]
    assert found == [expected]


def test_published_points_say_which_were_mined() -> None:
    points = load_space(Row("triplet", "wpm")).published
    assert [p.miner for p in points if p.source == "mlrc"] == [None] * 3
    mined = [p for p in points if p.source == "wpm"]
    assert mined
    assert all(p.miner == "wpm" for p in mined)


# Reading


def test_everything_in_a_file_is_read(tmp_path: Path) -> None:
    write_space(
        tmp_path,
        """
        description = "a loss"
        [search.margin]
        low = 1e-3
        high = 2
        scale = "log"
        reason = "because"
        [search.bins]
        low = 2
        high = 10
        type = "int"
        [fixed]
        weight = 3
        [[published]]
        dataset = "cub200"
        source = "paper"
        within_pair_mining = true
        parameters = { margin = 5, bins = 4 }
        """,
    )
    space = load_space(Row("triplet"), tmp_path)
    assert space.searched == {
        "margin": Range(0.001, 2.0, "log", "float", "because"),
        "bins": Range(2.0, 10.0, "linear", "int", ""),
    }
    assert space.fixed == {"weight": 3.0}
    (point,) = space.published
    assert (point.dataset, point.source, point.miner) == ("cub200", "paper", "wpm")
    assert point.parameters == {"margin": 5.0, "bins": 4}  # beyond the range is fine
    assert space.complete({"margin": 0.5, "bins": 3}) == {"margin": 0.5, "bins": 3, "weight": 3.0}


def test_sampled_values_win_over_fixed_ones(tmp_path: Path) -> None:
    write_space(tmp_path, GOOD + "[fixed]\nweight = 3\n")
    space = load_space(Row("triplet"), tmp_path)
    assert space.complete({"weight": 4.0}) == {"weight": 4.0}


@pytest.mark.parametrize(
    ("value", "inside"), [(0.0, True), (1.0, True), (0.5, True), (-1e-9, False), (1.1, False)]
)
def test_range_contains_its_ends(value: float, inside: bool) -> None:
    assert Range(0.0, 1.0).contains(value) is inside
    assert not Range(0.0, 1.0).contains(math.nan)


def test_losses_are_the_files_except_the_miners(tmp_path: Path) -> None:
    for name in ("triplet", "contrastive", "wpm"):
        write_space(tmp_path, GOOD, name)
    (tmp_path / "notes.txt").touch()
    assert known_losses(tmp_path) == ["contrastive", "triplet"]
    assert "unknown row 'wpm'" in error_of(tmp_path, "wpm")


# What is refused

BAD_FILES = {
    "not_toml": ("[search.margin\nlow = 0", "not valid TOML"),
    "not_text": ("\udcff", "not valid TOML"),
    "high_is_huge": ("[search.margin]\nlow = 0\nhigh = 1" + 400 * "0", "search.margin.high is a"),
    "fixed_is_huge": (GOOD + "[fixed]\nweight = 1" + 400 * "0", "fixed.weight is a whole number"),
    "published_is_huge": (
        GOOD + "[[published]]\nparameters = { margin = 1" + 400 * "0" + " }",
        "published.parameters.margin is a whole number",
    ),
    "unknown_key": (GOOD + "[serach.beta]\nlow = 0\nhigh = 1", "serach"),
    "unknown_range_key": (GOOD + "step = 0.1", "step"),
    "no_low": ("[search.margin]\nhigh = 1", "no low"),
    "no_high": ("[search.margin]\nlow = 1", "no high"),
    "not_a_table": ("[search]\nmargin = 0.5", "0.5"),
    "low_is_text": ('[search.margin]\nlow = "0"\nhigh = 1', "'0'"),
    "low_is_truth": ("[search.margin]\nlow = false\nhigh = 1", "False"),
    "high_is_list": ("[search.margin]\nlow = 0\nhigh = [1]", "[1]"),
    "high_is_infinite": ("[search.margin]\nlow = 0\nhigh = inf", "inf"),
    "low_is_nan": ("[search.margin]\nlow = nan\nhigh = 1", "nan"),
    "low_above_high": ("[search.margin]\nlow = 2\nhigh = 1", "from 2 to 1"),
    "low_equals_high": ("[search.margin]\nlow = 1\nhigh = 1", "from 1 to 1"),
    "unknown_scale": (GOOD + 'scale = "log10"', "'log10'"),
    "unknown_type": (GOOD + 'type = "integer"', "'integer'"),
    "log_of_zero": (GOOD + 'scale = "log"', "low > 0"),
    "log_of_negative": ('[search.margin]\nlow = -1\nhigh = 1\nscale = "log"', "low > 0"),
    "int_low_fraction": ('[search.margin]\nlow = 0.5\nhigh = 3\ntype = "int"', "0.5"),
    "int_high_fraction": ('[search.margin]\nlow = 1\nhigh = 3.5\ntype = "int"', "3.5"),
    "fixed_is_text": (GOOD + '[fixed]\nweight = "heavy"', "'heavy'"),
    "searched_and_fixed": (GOOD + "[fixed]\nmargin = 1", "both searched and fixed"),
    "published_unsearched": (GOOD + "[[published]]\nparameters = { beta = 1 }", "beta"),
    "published_fixed": (
        GOOD + "[fixed]\nweight = 1\n[[published]]\nparameters = { weight = 1 }",
        "weight",
    ),
    "published_unknown_key": (GOOD + '[[published]]\ndata_set = "x"', "data_set"),
    "published_is_text": (
        GOOD + '[[published]]\nparameters = { margin = "small" }',
        "'small'",
    ),
    "published_int_fraction": (
        '[search.bins]\nlow = 1\nhigh = 9\ntype = "int"\n'
        "[[published]]\nparameters = { bins = 2.5 }",
        "2.5",
    ),
    "published_is_a_table": (GOOD + '[published]\ndataset = "x"', "published"),
    # Wrong types where a table or a list of tables belongs.
    "search_is_a_number": ("search = 3", "search"),
    "search_is_a_list": ("search = [1, 2]", "search"),
    "fixed_is_a_number": ("fixed = 3\n" + GOOD, "fixed"),
    "published_is_a_number": ("published = 3\n" + GOOD, "published"),
    "parameters_is_a_number": (GOOD + "[[published]]\nparameters = 3", "parameters"),
    "mining_is_text": (GOOD + '[[published]]\nwithin_pair_mining = "no"', "within_pair_mining"),
    "miner_is_a_number": (GOOD + "[[published]]\nminer = 3", "published.miner is 3"),
    "refusal_is_false": ("nothing_to_mine = false\n" + GOOD, "nothing_to_mine"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_refused_in_one_line_that_names_it(tmp_path: Path, name: str) -> None:
    text, part = BAD_FILES[name]
    path = tmp_path / "triplet.toml"
    path.write_bytes(text.encode("utf-8", errors="surrogateescape"))
    message = error_of(tmp_path)
    assert message.startswith(f"{path}: ")
    assert part in message.removeprefix(str(path))


def test_the_good_part_of_the_bad_files_is_good(tmp_path: Path) -> None:
    write_space(tmp_path, GOOD)
    assert load_space(Row("triplet"), tmp_path).searched["margin"].high == 1


def test_bad_miner_file_is_refused(tmp_path: Path) -> None:
    write_space(tmp_path, GOOD)
    assert "wpm.toml: cannot be read" in error_of(tmp_path, "triplet+wpm")
    path = write_space(tmp_path, "[fixed]\nsharpness = 32\nembedding_dropout = 0.1", "wpm")
    message = error_of(tmp_path, "triplet+wpm")
    assert message.startswith(str(path))
    assert "channel_dropout" in message
    write_space(tmp_path, GOOD.replace("margin", "sharpnes"), "wpm")
    assert "sharpnes" in error_of(tmp_path, "triplet+wpm")
    load_space(Row("triplet"), tmp_path)  # which plain rows do not read


def test_miner_thresholds_may_be_fixed(tmp_path: Path) -> None:
    write_space(tmp_path, GOOD)
    fixed = "[fixed]\nsharpness = 32\nembedding_dropout = 0.05\nchannel_dropout = 0.1"
    write_space(tmp_path, fixed, "wpm")
    space = load_space(Row("triplet", "wpm"), tmp_path)
    assert list(space.searched) == ["margin"]
    assert space.fixed == PUBLISHED_THRESHOLDS
    assert space.thresholds == {}


def test_loss_that_cannot_be_mined_says_why(tmp_path: Path) -> None:
    write_space(tmp_path, 'nothing_to_mine = "it has proxies"\n' + GOOD)
    assert "it has proxies" in error_of(tmp_path, "triplet+wpm")
    load_space(Row("triplet"), tmp_path)


def test_unknown_row_lists_the_choices(tmp_path: Path) -> None:
    write_space(tmp_path, GOOD, "triplet")
    write_space(tmp_path, 'nothing_to_mine = "proxies"\n' + GOOD, "proxy_nca")
    write_space(tmp_path, GOOD, "wpm")
    message = error_of(tmp_path, "tripelt+wpm")
    assert "unknown row 'tripelt+wpm'" in message
    assert "proxy_nca, triplet[+wpm]" in message


def test_folder_without_files_is_refused(tmp_path: Path) -> None:
    assert str(tmp_path) in error_of(tmp_path)
    assert str(tmp_path / "nowhere") in error_of(tmp_path / "nowhere")
