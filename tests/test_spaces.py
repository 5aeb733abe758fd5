"""Search spaces: the files that ship hold the published ranges, and bad files are refused."""

import csv
import math
from pathlib import Path

import pytest

from wpm.errors import UserError
from wpm.rows import Row
from wpm.space_files import Range
from wpm.spaces import known_losses, load_space, load_spaces, nothing_to_mine

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


# Ranges that differ by data set

GOLDEN = Path(__file__).parent / "golden"
PUBLISHED = Path(__file__).parent.parent / "analysis" / "published"
ROUNDING = 1e-9


def read_lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "line",
    read_lines(PUBLISHED / "search_ranges.csv"),
    ids=lambda line: f"{line['row']}-{line['parameter']}",
)
def test_general_range_is_the_published_one(line: dict[str, str]) -> None:
    limits = load_space(Row(line["row"])).searched[line["parameter"]]
    expected = (float(line["low"]), float(line["high"]), line["scale"], line["type"])
    assert (limits.low, limits.high, limits.scale, limits.type) == expected


# The searches that MLRC published, 50 trials each: the lowest and highest value of a parameter.
PUBLISHED_TRIALS = read_lines(GOLDEN / "published_trials.csv")


@pytest.mark.parametrize(
    "line", PUBLISHED_TRIALS, ids=lambda line: "-".join(list(line.values())[:3])
)
def test_range_of_a_data_set_holds_the_published_trials_and_is_no_wider(
    line: dict[str, str],
) -> None:
    row, parameter = Row(line["row"]), line["parameter"]
    limits = load_space(row, dataset=line["dataset"]).searched[parameter]
    lowest, highest = float(line["lowest"]), float(line["highest"])
    assert limits.low - ROUNDING <= lowest < highest <= limits.high + ROUNDING
    general = load_space(row).searched[parameter]
    assert (limits.scale, limits.type) == (general.scale, general.type)
    # Bayesian optimisation tries the ends, so trials show where a range ended.
    if limits.low != general.low:
        assert lowest == pytest.approx(limits.low, rel=1e-6)
    if limits.high != general.high:
        assert highest == pytest.approx(limits.high, rel=1e-6)


def test_same_parameters_are_searched_as_in_the_published_trials() -> None:
    published: dict[tuple[str, str], set[str]] = {}
    for line in PUBLISHED_TRIALS:
        published.setdefault((line["row"], line["dataset"]), set()).add(line["parameter"])
    for (row, dataset), parameters in published.items():
        assert load_space(Row(row), dataset=dataset).searched.keys() == parameters


def test_ranges_that_differ_are_these() -> None:
    found = {}
    for name in known_losses():
        general = load_space(Row(name))
        for dataset in general.datasets:
            own = load_space(Row(name), dataset=dataset)
            for parameter, limits in own.searched.items():
                if (limits.low, limits.high) != (
                    (before := general.searched[parameter]).low,
                    before.high,
                ):
                    found[name, dataset, parameter] = (limits.low, limits.high)
    listed = {
        (line["row"], line["dataset"], line["parameter"]): (float(line["low"]), float(line["high"]))
        for line in read_lines(PUBLISHED / "dataset_ranges.csv")
        if line["low"]
    }
    assert (
        found
        == listed
        == {
            ("arcface", "sop", "scale"): (0.01, 300),
            ("multi_similarity", "cub200", "alpha"): (0.001, 100),
            ("multi_similarity_miner", "sop", "beta"): (0.01, 200),
            ("ntxent", "cars196", "temperature"): (1e-5, 100),
            ("ntxent", "sop", "temperature"): (1e-5, 100),
            ("soft_triple", "cub200", "gamma"): (1e-4, 100),
            ("soft_triple", "sop", "la"): (0.01, 200),
        }
    )


@pytest.mark.parametrize("dataset", ["cub200", "cars196", "sop"])
def test_published_points_lie_in_the_ranges_of_their_data_set(dataset: str) -> None:
    for name in known_losses():
        space = load_space(Row(name), dataset=dataset)
        for point in space.published:
            if point.dataset == dataset:
                assert point.parameters.keys() == space.searched.keys()
                for parameter, value in point.parameters.items():
                    assert space.searched[parameter].contains(value), (name, parameter)


def test_soft_triple_has_no_regulariser_on_sop() -> None:
    general, sop = (load_space(Row("soft_triple"), dataset=name) for name in (None, "sop"))
    assert "reg_weight" in general.searched
    assert "reg_weight" not in sop.searched
    assert sop.fixed == {**general.fixed, "reg_weight": 0.0}
    assert sop.loss == general.loss
    assert "reg_weight" not in sop.find_published("sop").parameters
    assert sop.complete(sop.find_published("sop").parameters)["reg_weight"] == 0


def test_data_set_changes_what_its_table_says(tmp_path: Path) -> None:
    write_space(
        tmp_path,
        GOOD
        + """
        [search.beta]
        low = 1
        high = 2
        scale = "log"
        [fixed]
        weight = 3
        [dataset.sop.search]
        beta = { high = 4 }
        weight = { low = 0, high = 1 }
        [dataset.sop.fixed]
        margin = 0.5
        """,
    )
    other, sop = (load_space(Row("triplet"), tmp_path, name) for name in ("cub200", "sop"))
    assert other == load_space(Row("triplet"), tmp_path)
    assert other.datasets == ("sop",)
    assert sop.searched == {
        "beta": Range(1.0, 4.0, "log"),
        "weight": Range(0.0, 1.0),
    }
    assert sop.fixed == {"margin": 0.5}


def test_miners_file_may_differ_by_data_set_too(tmp_path: Path) -> None:
    write_space(tmp_path, GOOD)
    fixed = "[fixed]\nsharpness = 32\nembedding_dropout = 0.05\nchannel_dropout = 0.1\n"
    write_space(tmp_path, fixed + "[dataset.sop.fixed]\nsharpness = 8\n", "wpm")
    row = Row("triplet", "wpm")
    assert load_space(row, tmp_path).fixed["sharpness"] == 32
    assert load_space(row, tmp_path, "sop").fixed["sharpness"] == 8


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset = 3", "dataset is 3, must be a table"),
        ("[dataset]\nsop = 3", "sop is 3, must be a table"),
        ("[dataset.sop.serach]\nmargin = 1", "dataset.sop has 'serach'"),
        ("[dataset.sop.search.margn]\nlow = 0", "dataset.sop sets 'margn', which other data sets"),
        ("[dataset.sop.search.margn]\nlow = 0", "did you mean 'margin'?"),
        ("[dataset.sop.search.margin]\nlow = 2", "dataset.sop.search.margin runs from 2 to 1"),
        ("[dataset.sop.search]\nmargin = 2", "dataset.sop.search.margin is 2, must be a table"),
        ("[dataset.sop.fixed]\nmargin = 'a'", "dataset.sop.fixed.margin is 'a'"),
        ("[dataset.sop]\nsearch.margin.low = 0\nfixed.margin = 1", "both searched and fixed"),
    ],
)
def test_wrong_range_of_any_data_set_is_refused_for_all(
    tmp_path: Path, text: str, says: str
) -> None:
    write_space(tmp_path, text + "\n" + GOOD if text == "dataset = 3" else GOOD + text)
    assert says in error_of(tmp_path)


# Losses


def test_row_that_names_no_loss_has_the_one_that_ships(tmp_path: Path) -> None:
    write_space(tmp_path, GOOD)
    assert load_space(Row("triplet"), tmp_path).loss == load_space(Row("triplet")).loss
    write_space(tmp_path, GOOD, "mine")
    message = error_of(tmp_path, "mine")
    assert message.startswith(f"{tmp_path / 'mine.toml'}: has no loss; name a class of pytorch")


def test_miners_file_names_no_loss(tmp_path: Path) -> None:
    write_space(tmp_path, 'loss = "TripletMarginLoss"\n' + GOOD)
    write_space(tmp_path, 'loss = "TripletMarginLoss"\n' + GOOD, "wpm")
    assert "wpm.toml: the file has 'loss'" in error_of(tmp_path, "triplet+wpm")
