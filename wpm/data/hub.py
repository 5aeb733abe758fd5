"""Download a file from Hugging Face, through the cache of its own client."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from wpm.errors import UserError, storage_error
from wpm.files import write_bytes

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on Hugging Face, which keeps its checksum.

    Attributes:
        repository: OWNER/NAME.
        revision: branch, tag or commit.
        path: of the file in the repository.
    """

    repository: str
    revision: str = "main"
    path: str = "model.safetensors"

    @property
    def name(self) -> str:
        """Name of the file on disk: files of all repositories have the same name there."""
        return f"{self.repository.replace('/', '.')}{Path(self.path).suffix}"

    @property
    def url(self) -> str:
        """Address to download it from by hand."""
        return f"https://huggingface.co/{self.repository}/resolve/{self.revision}/{self.path}"


def fetch_hub_file(file: HubFile, folder: Path, or_else: str) -> Path:
    """Bring a file into a folder, and verify its checksum.

    The client of Hugging Face downloads what is not in its own cache, and follows its environment:
    HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE and others. The copy is for nodes of a cluster, which share
    the folder and not that cache. The checksum is kept beside it, so that no later call needs the
    network.

    Args:
        file: what to download.
        folder: where the copy goes; created as needed.
        or_else: what else to do, for errors.

    Returns:
        The verified copy.

    Raises:
        UserError: the file cannot be had, or differs from its checksum.
        StorageError: the copy cannot be written.
    """
    target = folder / file.name
    checksum_file = target.with_name(f"{target.name}.sha256")
    if target.exists() and checksum_file.exists():
        _read_verified(target, _read_bytes(checksum_file).decode(errors="replace"), or_else)
        return target
    cached, checksum = _download(file, or_else)
    data = _read_verified(cached, checksum, or_else)
    if target.exists():
        _read_verified(target, checksum, or_else)
    else:
        write_bytes(target, data)
    write_bytes(checksum_file, f"{checksum}  {target.name}\n".encode())  # as sha256sum writes it
    return target


def _download(file: HubFile, or_else: str) -> tuple[Path, str]:
    """Return the file in the client's cache, and the SHA-256 that the hub keeps for it."""
    # Slow to import, and a dependency of timm, for whose trunks it is needed.
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    try:
        cached = Path(hf_hub_download(file.repository, file.path, revision=file.revision))
        if cached.is_symlink():  # to blobs/CHECKSUM: known without the network
            checksum = cached.readlink().name
        else:
            address = hf_hub_url(file.repository, file.path, revision=file.revision)
            checksum = get_hf_file_metadata(address).etag or ""
    except Exception as error:
        # Errors of the client, of the HTTP library below it, which differs from version to version,
        # and of the library for large files.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"{file.url} cannot be downloaded ({reason}); {or_else}") from error
    if not _SHA256.fullmatch(checksum):
        raise UserError(
            f"{file.url} has no SHA-256 on Hugging Face ({checksum!r}) to verify it by; {or_else}"
        )
    return cached, checksum


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise storage_error(path, error, "read") from error


def _read_verified(path: Path, checksum: str, or_else: str) -> bytes:
    data = _read_bytes(path)
    expected, found = checksum[:64], hashlib.sha256(data).hexdigest()
    if found != expected:
        raise UserError(
            f"{path}: has SHA-256 {found[:12]}..., but Hugging Face has {expected[:12]}...; delete "
            f"it and fetch it again, or {or_else}"
        )
    return data
