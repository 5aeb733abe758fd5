"""Mean, standard deviation and confidence interval of a few numbers."""

import math
from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("the mean of no values is undefined")
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float | None:
    """Return the sample standard deviation (n - 1 in the denominator), None below two values."""
    if len(values) < 2:
        return None
    centre = mean(values)
    return math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))


def confidence_half_width(values: Sequence[float], confidence: float = 0.95) -> float | None:
    """Return the half-width of the confidence interval of the mean, by Student's t.

    The interval is mean ± t * s / sqrt(n), where t is the (1 + confidence) / 2 quantile with n - 1
    degrees of freedom and s is the sample standard deviation.

    Args:
        values: independent measurements.
        confidence: probability that such an interval covers the true mean, in (0, 1).

    Returns:
        The half-width; None below two values, since one measurement says nothing about the spread.

    Raises:
        ValueError: `confidence` is not in (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}, must be between 0 and 1")
    deviation = standard_deviation(values)
    if deviation is None:
        return None
    # Imported here, because a ranking needs no quantile and starts faster without it. The same
    # function of scipy.stats would take seconds to import.
    from scipy.special import stdtrit

    quantile = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    return quantile * deviation / math.sqrt(len(values))
