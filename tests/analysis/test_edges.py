"""Distance of a configuration from the edges of what was searched."""

import pytest

from analysis.numbers.boundary import EdgeDistance, edge_distances

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
