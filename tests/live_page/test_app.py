"""The server: what it answers, what it refuses, and what it says to browsers about safety."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.support.live_page import PageServer, page_server
from tests.support.searches import write_searched
from tests.support.stored import bytes_under
from wpm.errors import UserError
from wpm.live_page.server import open_port
from wpm.live_page.watcher import Watcher

# Writes a page, and a line into a file beside it, so that the runs can be counted.
WRITES = (
    "import pathlib, sys; path = pathlib.Path(sys.argv[1]);"
    "path.write_text('<h1>report</h1>'); path.with_name('runs').open('a').write('x')"
)
FAILS = "import sys; sys.exit('no models\\nfor this')"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    return tmp_path / "reports"


@pytest.fixture
def server(tmp_path: Path, folder: Path) -> Iterator[PageServer]:
    write_searched(tmp_path / "runs", "contrastive+wpm", 2)
    (tmp_path / "runs" / "secret.txt").write_text("secret")
    watcher = Watcher(tmp_path / "runs")
    watcher.refresh()
    with page_server(watcher, folder, (sys.executable, "-c", WRITES)) as running:
        yield running


REPORT = "/report/omniglot/small/contrastive%2Bwpm"


def test_page_and_its_files_are_served_with_headers_that_confine_them(server: PageServer) -> None:
    for path, kind in (("/", "html"), ("/page.js", "javascript"), ("/page.css", "css")):
        answer, text = server.ask(path)
        assert (answer.status, text != "") == (200, True)
        assert answer.headers["content-type"] == f"text/{kind}; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in answer.headers
    page = server.ask("/")[1]
    assert "<script>" not in page, "the policy forbids scripts in the page"
    assert "style=" not in page + server.ask("/page.js")[1]
    assert "innerHTML" not in server.ask("/page.js")[1], "names and reasons come from records"


def test_changes_are_sent_since_a_token(server: PageServer) -> None:
    answer, text = server.ask("/changes")
    assert answer.headers["content-type"] == "application/json"
    content = json.loads(text)
    assert [study["name"] for study in content["changed"]] == ["omniglot/small/contrastive+wpm"]
    again = json.loads(server.ask(f"/changes?since={content['token']}")[1])
    assert again["changed"] == []


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:9", "LOCALHOST:8321"])
def test_names_of_this_machine_are_answered(server: PageServer, host: str) -> None:
    """Another port, because a tunnel may begin at another one."""
    assert server.ask("/changes", host=host)[0].status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8321", "", "10.0.0.1"],
)
def test_other_hosts_names_are_refused(server: PageServer, host: str) -> None:
    for path in ("/", "/changes", REPORT):
        answer, text = server.ask(path, host=host)
        assert answer.status == 400
        assert "contrastive" not in text


def test_other_sites_may_link_to_the_page_and_ask_for_nothing_else(
    server: PageServer, folder: Path
) -> None:
    for site in ("cross-site", "same-site"):
        assert server.ask("/", sec_fetch_site=site)[0].status == 200
        for path in ("/changes", "/page.js", REPORT, "/report"):
            assert server.ask(path, sec_fetch_site=site)[0].status == 403
    assert list(folder.iterdir()) == [], "no report was begun"
    assert server.ask("/changes", sec_fetch_site="same-origin")[0].status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
@pytest.mark.parametrize("path", ["/", "/changes", REPORT])
def test_only_reading_is_allowed(
    server: PageServer, tmp_path: Path, method: str, path: str
) -> None:
    before = bytes_under(tmp_path)
    assert server.ask(path, method, content_length="0")[0].status == 405
    assert bytes_under(tmp_path) == before


def test_head_is_answered_without_a_body(server: PageServer) -> None:
    answer, text = server.ask("/", "HEAD")
    assert (answer.status, text) == (200, "")


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt", "/../secret.txt", "/%2e%2e/secret.txt", "//etc/passwd", "/page.html",
        "/static/page.js", "/page.js/../app.py", "/report/../../secret.txt", "/report/",
        "/report/..%2f..%2fsecret.txt", "/report/omniglot/small/triplet", "/report//etc/passwd",
        "/report/omniglot/small/contrastive+wpm/study.json", "/report/omniglot/small", "/runs",
        "/report/omniglot/small/contrastive%2Bwpm%00", "/changes/x", "/omniglot/small",
    ],
)  # fmt: skip
def test_no_file_can_be_asked_for(server: PageServer, folder: Path, path: str) -> None:
    answer, text = server.ask(path)
    assert answer.status == 404
    assert "secret" not in text.replace("secret.txt", "")
    assert list(folder.iterdir()) == []


def test_report_is_made_when_asked_for_and_kept_until_records_change(
    server: PageServer, tmp_path: Path, folder: Path
) -> None:
    for _ in range(2):
        answer, text = server.ask(REPORT)
        assert (answer.status, text) == (200, "<h1>report</h1>")
        policy = answer.headers["content-security-policy"]
        assert "sandbox allow-scripts" in policy
        assert "connect-src" not in policy, "so nothing, by default-src"
    assert (folder / "runs").read_text() == "x"
    assert server.ask("/report")[0].status == 200, "of all studies"
    assert (folder / "runs").read_text() == "xx"
    write_searched(tmp_path / "runs", "contrastive+wpm", 3)
    server.watcher.refresh()
    assert server.ask(REPORT)[0].status == 200
    assert (folder / "runs").read_text() == "xxx"
    assert len(list(folder.glob("*.html"))) == 2, "the former one is deleted"


def test_report_that_cannot_be_made_says_why(tmp_path: Path, folder: Path) -> None:
    write_searched(tmp_path / "runs", "triplet", 2)
    watcher = Watcher(tmp_path / "runs")
    watcher.refresh()
    with page_server(watcher, folder, (sys.executable, "-c", FAILS)) as running:
        answer, text = running.ask("/report")
    assert answer.status == 500
    assert text == "the report could not be made:\nno models\nfor this"


def test_report_that_takes_long_does_not_hold_up_the_page(tmp_path: Path, folder: Path) -> None:
    slow = "import time; time.sleep(60)"
    watcher = Watcher(tmp_path)
    watcher.refresh()
    with page_server(watcher, folder, (sys.executable, "-c", slow)) as running:
        waiting = threading.Thread(target=_ask_in_vain, args=(running,))
        waiting.start()
        time.sleep(0.3)  # until the report is begun
        start = time.monotonic()
        assert running.ask("/changes")[0].status == 200
    waiting.join()
    assert time.monotonic() - start < 20, "stopping the server ends the report"


def _ask_in_vain(server: PageServer) -> None:
    with suppress(OSError, HTTPException):  # the server was stopped meanwhile
        server.ask("/report")


def test_port_in_use_is_refused() -> None:
    with open_port(0) as taken:
        port = taken.getsockname()[1]
        assert taken.getsockname()[0] == "127.0.0.1"
        with pytest.raises(UserError, match=f"--serve {port}: cannot listen on 127.0.0.1:{port}"):
            open_port(port)
