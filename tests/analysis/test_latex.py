"""LaTeX tables: what is spanned, escaped and refused."""

import pytest

from analysis.text.latex import Wide, escape_latex, format_latex


def test_latex_spans_headings_and_rules_off_all_but_the_last() -> None:
    headings: list[list[Wide | str]] = [["", Wide("CUB", 2), ""], ["row", Wide("P@1", 2), ""]]
    rows: list[list[Wide | str]] = [["a", "65.1", "0.3", "[1]"], [], ["b", Wide("--", 2, "l"), ""]]
    assert format_latex("lr@{}ll", headings, rows) == "\n".join(
        [
            r"\begin{tabular}{lr@{}ll}",
            r"\toprule",
            r" & \multicolumn{2}{c}{CUB} &  \\",
            r"\cmidrule(lr){2-3}",
            r"row & \multicolumn{2}{c}{P@1} &  \\",
            r"\midrule",
            r"a & 65.1 & 0.3 & [1] \\",
            r"\addlinespace[2pt]",
            r"b & \multicolumn{2}{l}{--} &  \\",
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("#1 & 50% of {$x}", r"\#1 \& 50\% of \{\$x\}"),
        ("\\~^", r"\textbackslash{}\textasciitilde{}\textasciicircum{}"),
        ("python x.py --y a<b>c", "python x.py -{}-y a$<$b$>$c"),
        ("512-d x-3 (-0.5, -.5) -", r"512-d x-3 ($-$0.5, $-$.5) -"),
    ],
)
def test_latex_prints_special_characters(text: str, latex: str) -> None:
    assert escape_latex(text) == latex


@pytest.mark.parametrize("row", [["x", "1", "2"], [Wide("x", 3)], ["x"]])
def test_latex_refuses_rows_of_other_widths(row: list[Wide | str]) -> None:
    with pytest.raises(ValueError, match=r"a line of [13] columns in a table of 2"):
        format_latex("l@{--}r", [["a", "b"]], [row])
