"""Boundary checks and distances from the edges of what was searched, by hand-computed ranges."""

from typing import Any

import pytest

from analysis.numbers.boundary import EdgeDistance, check_boundaries, describe_edges, edge_distances

LINEAR = {"low": -0.2, "high": 1.8, "scale": "linear", "type": "float"}
LOG = {"low": 1.0, "high": 256.0, "scale": "log", "type": "float"}


def next_range(value: float, bounds: dict[str, Any], name: str = "p") -> str:
    (check,) = check_boundaries({name: value}, {name: bounds})
    return str(check.next_range)


def test_value_within_five_percent_of_an_edge_is_flagged() -> None:
    assert next_range(1.71, LINEAR) == "0.8 to 2.8"  # 4.5% of 2.0
    assert next_range(1.69, LINEAR) == "None"
    assert next_range(-0.2, LINEAR) == "-1.2 to 0.8"
    # 5% of log(256) is a factor of 1.32: linearly 1.3 and 250 would both be at an edge
    assert next_range(1.3, LOG) == "0.1 to 16 (log)"
    assert next_range(1.4, LOG) == "None"
    assert next_range(250.0, LOG) == "16 to 2.56e+03 (log)"


def test_log_range_of_less_than_two_decades_doubles() -> None:
    bounds = {**LOG, "high": 4.0}
    assert next_range(4.0, bounds) == "2 to 8 (log)"


def test_ranges_stay_within_what_a_parameter_can_be() -> None:
    from_zero = {"low": 0.0, "high": 0.5, "scale": "linear", "type": "float"}
    assert next_range(0.01, from_zero) == "0 to 0.25"
    assert next_range(0.5, from_zero) == "0.25 to 0.75"
    dropout = {**LOG, "low": 0.005, "high": 0.5}
    assert next_range(0.49, dropout, "embedding_dropout") == "0.05 to 0.95 (log)"
    assert next_range(0.49, dropout, "sharpness") == "0.05 to 5 (log)"
    bins = {"low": 2, "high": 9, "scale": "linear", "type": "int"}
    assert next_range(2, bins) == "1 to 6"  # 2 - 3.5 is below 1; 5.5 is rounded to even


def test_low_end_of_a_wide_linear_range_is_searched_in_decades() -> None:
    scale = {"low": 0.01, "high": 100, "scale": "linear", "type": "float"}
    assert next_range(0.5, scale) == "0.05 to 5 (log)"
    assert next_range(99.0, scale) == "50 to 150"


def test_parameters_at_an_edge_are_named_in_a_line() -> None:
    checks = check_boundaries({"a": 1.8, "b": 16.0, "fixed": 1.0}, {"a": LINEAR, "b": LOG})
    assert [check.distance.parameter for check in checks] == ["a", "b"]
    assert describe_edges(checks) == (
        "within 5% of an edge of the range: a (high); search these further"
    )
    assert describe_edges(checks[1:]) == (
        "no parameter of the best trial is within 5% of an edge of its range"
    )
    assert checks[1].range_text == "1 to 256 (log)"


def test_fixed_values_are_not_checked() -> None:
    assert check_boundaries({"fixed": 1.0}, {"a": LINEAR}) == []


def test_log_scale_without_zero_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="math domain"):
        check_boundaries({"a": 0.0}, {"a": LOG})


SEARCHED = {
    "margin": {"low": -0.2, "high": 1.8, "scale": "linear", "type": "float"},
    "lr": {"low": 1e-4, "high": 1e-1, "scale": "log", "type": "float"},
}


def test_nearest_edge_comes_first_on_the_scale_that_was_searched() -> None:
    nearest, other = edge_distances({"margin": 0.6, "lr": 1e-2, "fixed": 3.0}, SEARCHED)
    assert (nearest.parameter, nearest.side, nearest.edge) == ("lr", "high", 1e-1)
    assert nearest.share == pytest.approx(1 / 3)
    assert (other.parameter, other.side, other.edge) == ("margin", "low", -0.2)
    assert other.share == pytest.approx(0.4)


def test_edge_middle_and_outside() -> None:
    def share(margin: float) -> EdgeDistance:
        (distance,) = edge_distances({"margin": margin}, SEARCHED)
        return distance

    assert share(1.8) == EdgeDistance("margin", "high", 1.8, 0.0)
    assert share(0.8).share == pytest.approx(0.5)
    assert share(2.0).share == pytest.approx(-0.1)
    assert share(-0.4).share == pytest.approx(-0.1)


def test_value_that_a_log_scale_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="math domain"):
        edge_distances({"lr": 0.0}, SEARCHED)
