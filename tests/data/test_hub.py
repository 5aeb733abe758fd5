"""Files of Hugging Face: checksum, its own cache, offline mode, against a hub on loopback.

The client reads its environment when it is imported, so each call is a process of its own.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_server import COMMIT, Hub, serve_hub

ROOT = Path(__file__).resolve().parents[2]
CONTENT = b"weights" * 1000
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()
PLACE = "timm/net.a1/resolve/main/model.safetensors"
CODE = """
import sys
from pathlib import Path
from wpm.data.hub import HubFile, fetch_hub_file
from wpm.errors import UserError
try:
    print(fetch_hub_file(HubFile(*sys.argv[2:]), Path(sys.argv[1]), "give --weights FILE"))
except UserError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


class Client:
    """Calls `fetch_hub_file` with the environment of a user."""

    def __init__(self, hub: Hub, home: Path, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "no_proxy": "127.0.0.1",
        }

    def fetch(
        self, *file: str, offline: bool = False, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        environment["HF_HUB_OFFLINE"] = str(int(offline))
        return subprocess.run(
            [sys.executable, "-c", CODE, str(self.folder), *(file or ("timm/net.a1",))],
            cwd=ROOT, env=self.environment | environment, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serve_hub(Hub({PLACE: CONTENT})) as hub:
        yield hub


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub, tmp_path / "home", tmp_path / "weights")


def test_a_file_is_fetched_once_and_verified(client: Client, hub: Hub, tmp_path: Path) -> None:
    answer = client.fetch()
    assert answer.returncode == 0, answer.stderr
    copy = Path(answer.stdout.splitlines()[-1])
    assert copy == tmp_path / "weights" / "timm.net.a1.safetensors"
    assert copy.read_bytes() == CONTENT
    assert f"{CHECKSUM}  {copy.name}\n" == copy.with_name(f"{copy.name}.sha256").read_text()
    assert len(hub.downloads) == 1
    assert list((tmp_path / "home" / "hub").glob("models--timm--net.a1/blobs/*"))
    requests = len(hub.requests)
    assert client.fetch(offline=True).returncode == 0
    assert client.fetch().returncode == 0
    assert len(hub.requests) == requests, "the copy and its checksum are there"


def test_the_cache_of_the_client_is_used(client: Client, hub: Hub, tmp_path: Path) -> None:
    assert client.fetch().returncode == 0
    client.folder = tmp_path / "elsewhere"
    assert client.fetch().returncode == 0
    assert len(hub.downloads) == 1
    client.folder = tmp_path / "offline"
    requests = len(hub.requests)
    answer = client.fetch(offline=True)
    assert answer.returncode == 0, answer.stderr
    assert len(hub.requests) == requests
    assert (tmp_path / "offline" / "timm.net.a1.safetensors").read_bytes() == CONTENT


def test_a_cache_without_links_is_verified_too(client: Client, tmp_path: Path) -> None:
    answer = client.fetch(HF_HUB_DISABLE_SYMLINKS="1", HF_HUB_DISABLE_SYMLINKS_WARNING="1")
    assert answer.returncode == 0, answer.stderr
    (cached,) = (tmp_path / "home").rglob("model.safetensors")
    assert not cached.is_symlink()
    assert (tmp_path / "weights" / "timm.net.a1.safetensors").read_bytes() == CONTENT


def test_the_pinned_revision_and_file_are_fetched(client: Client, hub: Hub, tmp_path: Path) -> None:
    hub.files = {f"timm/net.a1/resolve/{COMMIT}/other.bin": b"pinned"}
    answer = client.fetch("timm/net.a1", COMMIT, "other.bin")
    assert answer.returncode == 0, answer.stderr
    assert (tmp_path / "weights" / "timm.net.a1.bin").read_bytes() == b"pinned"


def refusal(answer: subprocess.CompletedProcess[str]) -> str:
    assert answer.returncode == 1
    message = answer.stderr.splitlines()[-1]
    assert message.startswith("UserError: "), answer.stderr
    assert "give --weights FILE" in message
    return message


def test_offline_without_the_file_is_refused(client: Client, hub: Hub, tmp_path: Path) -> None:
    message = refusal(client.fetch(offline=True))
    assert "https://huggingface.co/timm/net.a1/resolve/main/model.safetensors" in message
    assert "cannot be downloaded (" in message
    assert hub.requests == []
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_file_that_the_hub_lacks_is_refused(client: Client, tmp_path: Path) -> None:
    assert "cannot be downloaded (404" in refusal(client.fetch("timm/absent"))
    assert not (tmp_path / "weights").exists()


def test_a_file_without_a_sha256_is_refused(client: Client, hub: Hub) -> None:
    hub.checksum = 40 * "a"  # as of files that are kept in git itself
    assert "has no SHA-256 on Hugging Face" in refusal(client.fetch())


def test_other_bytes_than_announced_are_refused(client: Client, hub: Hub, tmp_path: Path) -> None:
    hub.checksum = 64 * "0"
    message = refusal(client.fetch())
    assert f"has SHA-256 {CHECKSUM[:12]}..., but Hugging Face has 000000000000...; del" in message
    assert not (tmp_path / "weights").exists()


def test_a_damaged_cache_is_refused(client: Client, tmp_path: Path) -> None:
    assert client.fetch().returncode == 0
    (blob,) = (tmp_path / "home").rglob(CHECKSUM)
    blob.write_bytes(CONTENT[:-1] + b"?")
    client.folder = tmp_path / "elsewhere"
    for offline in (False, True):
        assert f"but Hugging Face has {CHECKSUM[:12]}...; delete" in refusal(
            client.fetch(offline=offline)
        )
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_copy_is_refused(client: Client, tmp_path: Path) -> None:
    copy = tmp_path / "weights" / "timm.net.a1.safetensors"
    copy.parent.mkdir()
    copy.write_bytes(b"mine")  # without a checksum: compared with the hub's, and not replaced
    assert str(copy) in refusal(client.fetch())
    assert copy.read_bytes() == b"mine"
    copy.unlink()
    assert client.fetch().returncode == 0
    copy.write_bytes(CONTENT[:-1])
    assert str(copy) in refusal(client.fetch(offline=True))
