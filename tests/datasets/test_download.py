"""Downloads from hosts that work, break off, lie, or are not there."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pooch
import pytest
import requests

from scgraphvci.datasets import _download
from scgraphvci.datasets._download import MIRROR, PublicFile, data_dir, fetch

BODY = bytes(range(256)) * 40
OTHER = b"x" * len(BODY)
DIGEST = sha256(BODY).hexdigest()
FILE = PublicFile("data.h5ad", home="https://example.org/page", sha256=DIGEST)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(_download, "CHUNK", 100)


def served(*urls: str, **changes) -> PublicFile:
    return replace(FILE, urls=urls, **changes)


def registry(cache: Path) -> str:
    path = cache / _download.REGISTRY
    return path.read_text() if path.exists() else ""


def parts(cache: Path) -> list[Path]:
    return sorted(cache.glob("*.part"))


def test_downloaded_once_with_a_progress_bar(host, cache, capfd):
    file = served(host.put("/data", BODY))
    assert fetch(file) == cache / "data.h5ad"
    assert (cache / "data.h5ad").read_bytes() == BODY
    assert "data.h5ad" in capfd.readouterr().err
    fetch(file)
    assert host.asked == [("/data", None)]
    assert registry(cache) == ""  # the file's own SHA-256 holds
    assert not parts(cache)


def test_unpublished_sha256_is_recorded_and_holds_later(host, cache):
    file = served(host.put("/data", BODY), sha256=None)
    path = fetch(file)
    assert registry(cache) == f"data.h5ad {DIGEST}\n"
    path.write_bytes(OTHER)
    with pytest.raises(ValueError, match=r"not the file expected.*delete its line in .*registry.txt"):
        fetch(file)
    path.unlink()
    host.put("/data", OTHER)
    with pytest.raises(OSError, match="does not match the known hash"):
        fetch(file)
    assert not path.exists()
    (cache / _download.REGISTRY).unlink()
    assert fetch(file).read_bytes() == OTHER
    assert registry(cache) == f"data.h5ad {sha256(OTHER).hexdigest()}\n"


@pytest.mark.parametrize("line", ["data.h5ad", f"data.h5ad {DIGEST} again"])
def test_a_damaged_line_of_the_registry_is_named(host, cache, line):
    file = served(host.put("/data", BODY), sha256=None)
    cache.mkdir()
    (cache / _download.REGISTRY).write_text(f"other.h5ad {DIGEST}\n\n{line}\n")
    with pytest.raises(ValueError, match=rf"Line 3 of .*registry\.txt is '{line}'.*Mend or delete it"):
        fetch(file)
    assert host.asked == []


def test_sha256_of_the_listing_is_checked_and_recorded(host, cache):
    file = replace(FILE, sha256=None, osf_nodes=("abcde",))
    host.put_osf("abcde", {"data.h5ad": BODY})
    host.put("/download/abcde0/", OTHER)
    with pytest.raises(OSError, match="does not match the known hash"):
        fetch(file)
    host.put("/download/abcde0/", BODY)
    fetch(file).unlink()
    assert registry(cache) == f"data.h5ad {DIGEST}\n"
    host.asked.clear()
    host.put_osf("abcde", {"data.h5ad": OTHER})
    with pytest.raises(OSError, match="changed since the first download.*Delete that line to accept"):
        fetch(file)
    assert host.downloads() == []


def test_second_project_is_asked(host, cache):
    host.put_osf("second", {"data.h5ad": BODY})
    assert fetch(replace(FILE, osf_nodes=("first", "second"))).read_bytes() == BODY


def test_broken_download_goes_on_where_it_ended(host, cache):
    file = served(host.put("/data", BODY, cuts=[1000, 2000]))
    assert fetch(file).read_bytes() == BODY
    assert host.asked == [("/data", None), ("/data", "bytes=1000-"), ("/data", "bytes=3000-")]


def test_truncated_download_is_kept_for_a_later_call(host, cache):
    url = host.put("/data", BODY, cuts=[1000, 0])
    with pytest.raises(OSError, match="data.h5ad could not be downloaded"):
        fetch(served(url))
    assert not (cache / "data.h5ad").exists()
    assert [path.stat().st_size for path in parts(cache)] == [1000]
    host.asked.clear()
    mirror = host.put("/mirror", BODY)
    assert fetch(served(mirror)).read_bytes() == BODY  # any address can go on
    assert host.asked == [("/mirror", "bytes=1000-")]
    assert not parts(cache)


def test_short_answer_is_noticed_whatever_the_library_says(tmp_path):
    class Short:
        status_code, headers, url, history = 200, {"Content-Length": "10"}, "https://example.org/data", ()
        raise_for_status = staticmethod(lambda: None)
        iter_content = staticmethod(lambda size: [b"12345"])

    with pytest.raises(requests.ConnectionError, match="broke off after 5 of 10 bytes"):
        _download._ResumingDownloader(tmp_path / "part", 0)._receive(Short())


def test_endless_breaking_off_ends(host, cache):
    url = host.put("/data", BODY, cuts=[100] * 100)
    with pytest.raises(OSError, match="could not be downloaded"):
        fetch(served(url))
    assert len(host.asked) == _download.TRIES


def test_without_sha256_each_try_begins_anew(host, cache):
    url = host.put("/data", BODY, cuts=[1000])
    file = served(url, sha256=None)
    with pytest.raises(OSError, match="could not be downloaded"):
        fetch(file)
    assert registry(cache) == ""
    assert fetch(file).read_bytes() == BODY
    assert host.asked == [("/data", None), ("/data", None)]


@pytest.mark.parametrize(
    ("left", "ranges", "asked"),
    [
        (BODY[:500], False, ["bytes=500-"]),  # the server sends everything again
        (OTHER[:500], True, ["bytes=500-", None]),  # what was left is not the beginning of the file
        (BODY, True, [f"bytes={len(BODY)}-"]),  # nothing is left to send
        (BODY + b"!", True, [f"bytes={len(BODY) + 1}-", None]),
    ],
)
def test_what_a_broken_download_left(host, cache, left, ranges, asked):
    cache.mkdir()
    (cache / f"data.h5ad.{DIGEST[:12]}.part").write_bytes(left)
    assert fetch(served(host.put("/data", BODY, ranges=ranges))).read_bytes() == BODY
    assert [piece for _, piece in host.asked] == asked


@pytest.mark.parametrize("bad", ["corrupted", "gone", "empty 202", "nobody"])
def test_mirror_is_used_where_the_home_fails(host, cache, nowhere, bad):
    homes = {
        "corrupted": host.put("/corrupted", OTHER),
        "gone": f"{host.url}/gone",
        "empty 202": host.put("/later", b"", status=202),
        "nobody": f"{nowhere}/data",
    }
    assert fetch(served(homes[bad], host.put("/mirror", BODY))).read_bytes() == BODY
    assert host.asked[-1] == ("/mirror", None)


def test_mirror_of_the_user(host, cache, nowhere, monkeypatch):
    monkeypatch.setenv(MIRROR, f"{host.url}/lab/")
    host.put("/lab/data.h5ad", BODY)
    file = served(f"{nowhere}/data", sha256=None)
    assert fetch(file).read_bytes() == BODY
    assert registry(cache) == f"data.h5ad {DIGEST}\n"


def test_corrupted_download_leaves_nothing(host, cache):
    with pytest.raises(OSError, match="does not match the known hash") as error:
        fetch(served(host.put("/data", OTHER)))
    assert "https://example.org/page" in str(error.value)
    assert not list(cache.glob("data*"))
    assert len(host.asked) == 1


def test_offline_tells_what_to_fetch_by_hand(cache, nowhere, monkeypatch):
    monkeypatch.setattr("scgraphvci.datasets._osf.OSF_API", nowhere)
    file = served(f"{nowhere}/data", osf_nodes=("abcde",), advice="Ask a neighbour.")
    with pytest.raises(OSError) as error:
        fetch(file)
    message = str(error.value)
    assert "OSF project abcde" in message
    assert f"{nowhere}/data" in message
    assert f"Fetch it by hand from https://example.org/page and put it at {cache / 'data.h5ad'}" in message
    assert message.endswith("or give its place with `path=`. Ask a neighbour.")


def test_file_put_there_by_hand_is_taken(host, cache, nowhere):
    cache.mkdir()
    (cache / "data.h5ad").write_bytes(BODY)
    assert fetch(served(nowhere)) == cache / "data.h5ad"
    assert fetch(served(nowhere, sha256=None)) == cache / "data.h5ad"
    assert registry(cache) == f"data.h5ad {DIGEST}\n"
    (cache / "data.h5ad").write_bytes(OTHER)
    with pytest.raises(ValueError, match="Move it away to download it again, or read it with `path=`"):
        fetch(served(nowhere))


def test_folder_of_downloads(cache, monkeypatch):
    assert data_dir() == cache
    monkeypatch.setenv(_download.DATA_DIR, "~/screens")
    assert data_dir() == Path.home() / "screens"
    monkeypatch.delenv(_download.DATA_DIR)
    assert data_dir() == Path(pooch.os_cache("scgraphvci"))
