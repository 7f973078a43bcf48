"""What a hostile host may send: redirects, other files, other addresses, names that point elsewhere."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from scgraphvci.datasets import _download, _osf
from scgraphvci.datasets._download import PublicFile, fetch

BODY = b"the file" * 100
DIGEST = sha256(BODY).hexdigest()


class Host:
    """A server on loopback; `replies` by path: an address to redirect to, or what to send."""

    def __init__(self) -> None:
        self.replies: dict[str, str | bytes] = {}
        replies = self.replies

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                reply = replies[self.path]
                self.send_response(302 if isinstance(reply, str) else 200)
                if isinstance(reply, str):
                    self.send_header("Location", reply)
                    self.send_header("Content-Length", "0")
                self.end_headers()
                if isinstance(reply, bytes):
                    self.wfile.write(reply)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setenv(_download.DATA_DIR, str(tmp_path / "cache"))
    monkeypatch.delenv(_download.MIRROR, raising=False)
    host = Host()
    yield host
    host.server.shutdown()
    host.server.server_close()


def served(*urls: str, sha: str | None = DIGEST, **kwargs: tuple[str, ...]) -> PublicFile:
    return PublicFile("data.h5ad", home="https://example.org", urls=urls, sha256=sha, **kwargs)


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*"))


def test_a_redirect_is_followed_and_its_file_checked(host, tmp_path):
    host.replies |= {"/moved": "/here", "/here": BODY, "/else": "/other", "/other": b"other"}
    with pytest.raises(OSError, match="does not match the known hash"):
        fetch(served(f"{host.url}/else"))
    assert left(tmp_path) == []
    assert fetch(served(f"{host.url}/moved")).read_bytes() == BODY


@pytest.mark.parametrize(
    ("target", "match"),
    [("/loop", "redirects"), ("file:///etc/passwd", "No connection adapters|adapter"), ("ftp://host/data", "adapter")],
)
def test_other_redirects_are_refused(host, tmp_path, target, match):
    host.replies["/loop"] = target
    with pytest.raises(OSError, match=match):
        fetch(served(f"{host.url}/loop"))
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("hops", "allowed"),
    [
        (["https://home/a"], True),
        (["https://home/a", "https://elsewhere/b"], True),
        (["https://home/a", "http://elsewhere/b"], False),
        (["https://home/a", "http://elsewhere/b", "https://home/c"], False),
        (["http://mirror/a"], True),  # of the user's own choice
    ],
)
def test_an_encrypted_download_stays_encrypted(tmp_path, hops, allowed):
    hops = [SimpleNamespace(url=url) for url in hops]
    response = SimpleNamespace(
        url=hops[-1].url, history=hops[:-1], status_code=200, headers={"Content-Length": str(len(BODY))},
        raise_for_status=lambda: None, iter_content=lambda size: [BODY],
    )  # fmt: skip
    downloader = _download._ResumingDownloader(tmp_path / "part", 0)
    if allowed:
        downloader._receive(response)
        assert (tmp_path / "part").read_bytes() == BODY
    else:
        with pytest.raises(requests.exceptions.SSLError, match="not encrypted, http"):
            downloader._receive(response)
        assert not (tmp_path / "part").exists()


def listing(**file: object) -> bytes:
    return json.dumps({"data": [{"attributes": {"kind": "file", "name": "data.h5ad"}, **file}], "links": {}}).encode()


LISTINGS = {
    "no json": b"not json",
    "list": b"[]",
    "empty": b"{}",
    "no attributes": b'{"data": [{}], "links": {}}',
    "text for attributes": b'{"data": [{"attributes": "x"}], "links": {}}',
    "number": b'{"data": 3, "links": {"next": null}}',
    "no address": listing(),
    "text for links": listing(links="x"),
    "address of a local file": listing(links={"download": "file:///etc/passwd"}),
}


@pytest.mark.parametrize("listing", LISTINGS.values(), ids=list(LISTINGS))
def test_listings_of_anything(host, tmp_path, monkeypatch, listing):
    monkeypatch.setattr(_osf, "OSF_API", host.url)
    host.replies["/nodes/abc/files/osfstorage/"] = listing
    with pytest.raises(OSError, match=r"data\.h5ad could not be downloaded"):
        fetch(served(sha=None, osf_nodes=("abc",)))
    assert left(tmp_path) == []


def test_a_changed_file_is_never_taken_for_the_recorded_one(host, tmp_path):
    host.replies["/data"] = BODY
    path = fetch(served(f"{host.url}/data", sha=None))
    path.unlink()
    host.replies["/data"] = b"changed"
    with pytest.raises(OSError, match="does not match the known hash"):
        fetch(served(f"{host.url}/data", sha=None))
    assert left(tmp_path) == [_download.REGISTRY]
