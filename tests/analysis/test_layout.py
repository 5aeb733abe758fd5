"""Hours are printed with as many digits as they need."""

from analysis.text.layout import format_hours


def test_few_hours_have_more_digits() -> None:
    assert [format_hours(h) for h in (0.0, 0.01849, 9.87654, 123.456)] == [
        "0.000", "0.018", "9.877", "123.5",
    ]  # fmt: skip
