"""Download a public file once: resumed where it broke off, checked against its SHA-256, from a mirror if need be."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pooch
import requests
from tqdm import tqdm

from scgraphvci.datasets._osf import Source, find_file

logger = logging.getLogger(__name__)

DATA_DIR = "SCGRAPHVCI_DATA_DIR"
MIRROR = "SCGRAPHVCI_DATA_MIRROR"
REGISTRY = "registry.txt"  # "name sha256" per line, as pooch writes registries
TIMEOUT = 30  # seconds without a byte
TRIES = 5  # of one address, as long as each brings bytes
CHUNK = 1 << 16  # bytes written at once, and so the most that is lost where a download breaks off


@dataclass(frozen=True)
class PublicFile:
    """A file that others publish.

    Attributes
    ----------
    name
        Under which it is published and kept.
    home
        Page where a person finds it.
    osf_nodes
        Projects of the Open Science Framework that hold it, asked for its address and SHA-256 at download.
    urls
        Addresses, the home first, then mirrors.
    sha256
        If it is known beforehand.
    advice
        What else helps who fetches it by hand.
    """

    name: str
    home: str
    osf_nodes: tuple[str, ...] = ()
    urls: tuple[str, ...] = ()
    sha256: str | None = None
    advice: str = ""


def data_dir() -> Path:
    """Folder that keeps downloads: the environment variable SCGRAPHVCI_DATA_DIR, else the cache of the system."""
    name = os.environ.get(DATA_DIR)
    return Path(name).expanduser() if name else Path(pooch.os_cache("scgraphvci"))


def fetch(file: PublicFile) -> Path:
    """Return the path of a public file, after downloading it unless it is there.

    The SHA-256 that must hold is the file's own, else the one recorded at the first download or first use, else the
    one its home publishes. A download that breaks off is resumed, also by a later call, if its SHA-256 is known. After
    the homes, the mirror in the environment variable SCGRAPHVCI_DATA_MIRROR is asked for ``<mirror>/<name>``.

    Raises
    ------
    OSError
        If no address gave the file; it says how to fetch it by hand.
    ValueError
        If the file on disk is not the one expected.
    """
    folder = data_dir()
    target, expected = folder / file.name, file.sha256 or _recorded(folder).get(file.name)
    if target.is_file():
        _check(target, expected, file)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        _download(file, target, expected)
    if expected is None:
        _record(target)
    return target


def _check(target: Path, expected: str | None, file: PublicFile) -> None:
    """Raise unless the file on disk has the SHA-256 expected, if any is."""
    if expected is None:
        return
    found = pooch.file_hash(str(target), alg="sha256")
    if found != expected:
        msg = f"{target} is not the file expected: its SHA-256 is {found}, not {expected}. "
        msg += "Move it away to download it again, or read it with `path=`"
        msg += "." if file.sha256 else f"; to trust it from now on, delete its line in {target.parent / REGISTRY}."
        raise ValueError(msg)


def _download(file: PublicFile, target: Path, expected: str | None) -> None:
    """Download from the first address that gives the file expected."""
    reasons: list[str] = []
    for source in _sources(file, reasons):
        if expected and source.sha256 not in (None, expected):
            reasons.append(
                f"{source.url} changed since the first download: its SHA-256 is {source.sha256}, not {expected} "
                f"as recorded in {target.parent / REGISTRY}. Delete that line to accept the new file."
            )
            continue
        try:
            _get(source.url, target, expected or source.sha256)
        except (OSError, ValueError) as error:
            reasons.append(f"{source.url}: {error}")
        else:
            return
    lines = "\n".join(f"- {reason}" for reason in reasons)
    msg = (
        f"{file.name} could not be downloaded:\n{lines}\nFetch it by hand from {file.home} and put it at {target}, "
        f"or give its place with `path=`.{' ' * bool(file.advice)}{file.advice}"
    )
    raise OSError(msg)


def _sources(file: PublicFile, reasons: list[str]) -> Iterator[Source]:
    """Yield addresses one by one; note why a project could not tell one."""
    for node in file.osf_nodes:
        try:
            source = find_file(node, file.name)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # the last three: another layout
            reasons.append(f"OSF project {node}: {error}")
        else:
            yield source
    for url in file.urls:
        yield Source(url)
    mirror = os.environ.get(MIRROR)
    if mirror:
        yield Source(f"{mirror.rstrip('/')}/{file.name}")


def _get(url: str, target: Path, known: str | None) -> None:
    """Download from one address.

    What is left of a broken download is named after its SHA-256, so that any address can go on with it. Without a
    SHA-256 nobody could tell whether two pieces belong together: then each try begins anew.
    """
    part = target.with_name(f"{target.name}.{known[:12] if known else 'new'}.part")
    for left in reversed(range(TRIES)):
        had = _size(part) if known else 0
        try:
            pooch.retrieve(
                url,
                known_hash=f"sha256:{known}" if known else None,
                fname=target.name,
                path=target.parent,
                downloader=_ResumingDownloader(part, had),
            )
        except (OSError, ValueError) as error:
            broke_off = isinstance(error, OSError)
            worth_another = known is not None and _size(part) > had if broke_off else had > 0
            if not (left and worth_another):
                raise
        else:
            return


class _ResumingDownloader:
    """Downloader for pooch that begins where a broken download ended, and shows progress.

    Attributes
    ----------
    part
        File that collects what came so far.
    had
        Number of its bytes to go on from.
    """

    def __init__(self, part: Path, had: int) -> None:
        self.part, self.had = part, had

    def __call__(self, url: str, output_file: str, pooch: Any, check_only: bool = False) -> None:
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={self.had}-"} if self.had else {})
        with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
            nothing_left = self.had and response.status_code == requests.codes.requested_range_not_satisfiable
            if not nothing_left:
                self._receive(response)
        shutil.move(self.part, output_file)

    def _receive(self, response: requests.Response) -> None:
        response.raise_for_status()
        hops = [one.url for one in (*response.history, response)]
        if hops[0].startswith("https:") and not all(hop.startswith("https:") for hop in hops):
            msg = f"the server redirects to an address that is not encrypted, {hops[-1]}"
            raise requests.exceptions.SSLError(msg)
        if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
            msg = f"the server answered {response.status_code}, not with the file"
            raise requests.HTTPError(msg)
        start = self.had if response.status_code == requests.codes.partial_content else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        bar = {
            "desc": self.part.with_suffix("").stem,
            "total": total,
            "initial": start,
            "unit": "B",
            "unit_scale": True,
        }
        with self.part.open("ab" if start else "wb") as handle, tqdm(**bar) as progress:
            for chunk in response.iter_content(CHUNK):
                handle.write(chunk)
                progress.update(len(chunk))
        size = _size(self.part)
        if total is not None and size != total:  # urllib3 1 says nothing
            msg = f"broke off after {size} of {total} bytes"
            raise requests.ConnectionError(msg)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _recorded(folder: Path) -> dict[str, str]:
    """SHA-256 by name, as recorded."""
    registry = folder / REGISTRY
    if not registry.is_file():
        return {}
    recorded = {}
    for number, line in enumerate(registry.read_text(encoding="utf-8").splitlines(), 1):
        match line.split():
            case []:
                continue
            case [name, digest]:
                recorded[name] = digest
            case _:
                msg = f"Line {number} of {registry} is {line!r}, not a file name and its SHA-256. Mend or delete it."
                raise ValueError(msg)
    return recorded


def _record(target: Path) -> None:
    """Record the SHA-256 of a file that has none yet."""
    found = pooch.file_hash(str(target), alg="sha256")
    with (target.parent / REGISTRY).open("a") as registry:
        registry.write(f"{target.name} {found}\n")
    logger.info("SHA-256 of %s recorded: %s", target, found)
