"""The report page: what is on it, what is named as missing, and that no record is changed."""

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis.report import main
from analysis.report_page.page import figure_json
from analysis.report_page.study_section import find_published
from analysis.report_page.theme import Figure
from analysis.text.verdict import describe_difference
from tests.support.report_records import EVIL, write_report_records
from tests.support.searches import write_searched
from tests.support.stored import bytes_under, write_final, write_run
from wpm.files import write_json
from wpm.records import StudyPlace
from wpm.rows import Row

ROOT = Path(__file__).resolve().parents[2]


def report(root: Path, *arguments: str) -> int:
    where = ["--run-root", str(root / "runs"), "--embeddings", str(root / "embeddings")]
    return main([*where, "--out", str(root / "report.html"), *arguments])


def page_of(root: Path) -> str:
    """Return the page without plotly.js, most of its bytes."""
    whole = (root / "report.html").read_text(encoding="utf-8")
    start = whole.index("<script>", whole.index("<noscript>"))
    return whole[:start] + whole[whole.index("</script>", start) + len("</script>") :]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_report_records(root)
    assert report(root) == 0
    return root


class _Checker(HTMLParser):
    """Counts tags, and checks that they nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_has_every_part(whole: Path) -> None:
    page = page_of(whole)
    parts = (
        "What within-pair mining is worth", "Results on omniglot, protocol small",
        "Would more trials turn the order?", "What a device-hour of search found",
        "Validation against test", "Were the searches good enough?", "What was run",
        "wpm 0.1.0 (0123abc)", "torch 2.14.1", "here, 2 cores", "Best so far", "Learning curves",
        "Timeline", "Failed and diverged trials", "Parallel coordinates", "Importance",
        "Boundary check",
        "Two most important parameters", "Random queries", "Worst of 80 queries",
        "Map of the test embeddings", "25 trials, ranked", "Final runs, separated",
    )  # fmt: skip
    assert [part for part in parts if part not in page] == []
    # 2.0 points in every pair: no spread, so no interval
    assert "contrastive+wpm against contrastive: +2.00 points of test MAP@R" in page
    assert "24 of 24 trials ended (19 complete, 4 stopped, 1 failed, 1 running)" in page
    # of the row without embeddings: how to make them
    assert "--protocol small --row contrastive</code> makes them" in page


def test_page_is_valid_and_loads_nothing_from_elsewhere(whole: Path) -> None:
    checker = _Checker()
    page = page_of(whole)
    checker.feed(page)
    assert checker.open == []
    fetched = [
        value
        for tag, attributes in checker.tags
        for name, value in attributes.items()
        if name in ("src", "href") and value and not value.startswith(("data:", "#"))
    ]
    assert fetched == []
    assert "url(" not in page
    assert "@import" not in page
    ids = [attributes["id"] for _, attributes in checker.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in checker.tags if tag == "a"]
    assert {str(link)[1:] for link in links} <= {str(i) for i in ids}
    images = [a for tag, a in checker.tags if tag == "img"]
    assert len(images) == 2 * 6 * 9
    assert all(image["alt"] for image in images)


def test_what_records_say_is_shown_not_run(whole: Path) -> None:
    page = page_of(whole)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(&#39;reason&#39;)&lt;/script&gt; &amp; &lt;b&gt;NaN" in page
    assert "<i>class</i>" not in page
    assert "&lt;i&gt;class&lt;/i&gt;" in page
    data = Figure("t", "c.", [{"name": EVIL}])
    assert "</script" not in figure_json(data)
    assert json.loads(figure_json(data))["data"] == [{"name": EVIL}]


def test_page_is_light(whole: Path) -> None:
    page = page_of(whole)
    assert len(page) < 700_000  # beside plotly.js
    figures = re.findall(r'<script type="application/json">(.*?)</script>', page, re.S)
    assert len(figures) == 6 + 2 * (3 + 3 + 3) + 1  # of all rows, of each, of the embeddings
    for text in figures:
        json.loads(text)


def test_records_stay_as_they_are(tmp_path: Path) -> None:
    write_report_records(tmp_path, trials=12)
    before = bytes_under(tmp_path)
    assert report(tmp_path) == 0
    after = bytes_under(tmp_path)
    after.pop("report.html")
    assert after == before


def test_damaged_missing_and_mixed_records_are_named_on_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, mined = write_report_records(tmp_path, trials=12)
    (plain.trial_folder(1) / "result.json").write_text('{"sha256": "0", "content": {}}')
    (plain.trial_folder(2) / "reports.json").write_bytes(b"\x00")
    (mined.folder / "finals" / "bb" / "final.json").write_text("{")
    (tmp_path / "embeddings" / "omniglot" / "small" / str(mined.row) / "labels.npy").unlink()
    foreign = StudyPlace(tmp_path / "runs", "omniglot", "small", Row("triplet"))
    write_json(foreign.folder / "study.json", {"format": 99})
    odd = write_searched(tmp_path / "runs", "margin", trials=2)
    write_json(odd.trial_folder(0) / "result.json", {"state": "complete"})
    selection = ["--row", str(plain.row), str(mined.row), "triplet", "margin", "nca"]
    assert report(tmp_path, "--dataset", "omniglot", *selection) == 0
    page, err = page_of(tmp_path), capsys.readouterr().err
    for line in (
        "trials/0001/result.json: damaged",
        "trials/0002/reports.json: damaged",
        "finals/bb/final.json: damaged",
        "labels.npy: damaged or missing",
        "triplet/study.json: written by wpm",
        "trials/0000/result.json: its content is not as expected",
        "no study omniglot/*/nca under",
    ):
        assert line in page, line
        assert line in err, line
    assert page.count("trials/0001/result.json: damaged") == 1
    assert "omniglot/small/margin" in page


def test_interrupted_and_empty_studies_are_shown(tmp_path: Path) -> None:
    write_searched(tmp_path / "runs", "contrastive", trials=3, failed={0: "NaN", 1: "x", 2: "y"})
    write_searched(tmp_path / "runs", "triplet", trials=0)
    assert report(tmp_path) == 0
    page = page_of(tmp_path)
    assert "3 of 3 trials ended (3 failed)" in page
    assert "0 of 0 trials ended (none begun)" in page
    assert "No row has its +wpm twin among the selected studies" in page
    assert "too few trials to tell which parameters mattered: 0 have a" in page
    assert "no complete trial to check against the edges" in page


def test_nothing_readable_is_a_line_and_no_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report(tmp_path) == 2
    assert "no studies under" in capsys.readouterr().err
    place = write_searched(tmp_path / "runs", trials=1)
    (place.folder / "study.json").write_text("{")
    assert report(tmp_path) == 2
    err = capsys.readouterr().err
    assert "none of the 1 selected studies can be read" in err
    assert "study.json: damaged" in err
    assert not (tmp_path / "report.html").exists()


def test_unequal_searches_are_flagged_in_the_headline(tmp_path: Path) -> None:
    for row, trials in (("triplet", 10), ("triplet+wpm", 12)):
        place = write_searched(tmp_path / "runs", row, trials)
        for seed, score in enumerate((0.5, 0.6, 0.55)):
            shift = 0.1 + 0.01 * seed if row.endswith("wpm") else 0.0
            write_run(write_final(place, "aa", 1, 0.4), 1000 + seed, score + shift)
    assert report(tmp_path) == 0
    page = page_of(tmp_path)
    # differences 10, 11, 12: s = 1, 4.302653 / sqrt(3) = 2.48; t = 11 sqrt(3) = 19.05
    assert (
        "triplet+wpm against triplet: +11.00 points of test MAP@R, 95% interval +8.52 to +13.48, "
        "3 pairs of runs, p = 0.0027: of these configurations that of triplet+wpm is better. This "
        "is from one search of each row; how much another search would differ is not in it. "
        "Unequal: unequal search budgets"
    ) in page


def test_sentence_without_common_seeds_says_so(tmp_path: Path) -> None:
    from analysis.studies.comparison import compare_rows
    from analysis.studies.row_results import read_row
    from analysis.studies.row_searches import group_searches

    plain, mined = group_searches(
        read_row(write_searched(tmp_path, row, 3))[0] for row in ("nca", "nca+wpm")
    )
    assert describe_difference(compare_rows(plain, mined)).endswith(
        "no final runs with a common seed, nothing to compare."
    )


def test_published_values_are_those_of_the_row_and_data_set() -> None:
    def published(dataset: str, row: str) -> set[str]:
        return set(find_published(StudyPlace(Path("runs"), dataset, "small", Row.parse(row))))

    thresholds = {"embedding_dropout", "channel_dropout", "sharpness"}
    assert published("cub200", "contrastive") == {"pos_margin", "neg_margin"}
    assert published("cub200", "contrastive+wpm") == {"pos_margin", "neg_margin", *thresholds}
    assert published("omniglot", "contrastive+wpm") == thresholds
    assert published("omniglot", "unknown") == set()


def test_studies_are_closed_where_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.report_page.page._MOST_OPEN", 1)
    for row in ("triplet", "margin"):
        write_searched(tmp_path / "runs", row, trials=1)
    assert report(tmp_path) == 0
    assert page_of(tmp_path).count("<details") == 4
    assert '" open>' not in page_of(tmp_path)
    shutil.rmtree(tmp_path / "runs" / "omniglot" / "small" / "margin")
    assert report(tmp_path) == 0
    assert page_of(tmp_path).count('" open>') == 1


def test_report_starts_without_heavy_libraries() -> None:
    code = (
        "import sys, analysis.report as r; "
        "heavy = {'torch', 'ray', 'optuna', 'sklearn', 'scipy', 'plotly', 'jinja2', 'numpy'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); r.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python -m analysis.report --dataset omniglot" in done.stdout


def test_reading_needs_neither_ray_nor_torch(whole: Path) -> None:
    code = (
        "import sys; from analysis.report import main; "
        f"main(['--run-root', {str(whole / 'runs')!r}, '--out', {str(whole / 'again.html')!r}]); "
        "assert not {'torch', 'ray'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
