"""A host on loopback that serves files as public homes do, well or badly, and tiny files of their layout."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scgraphvci.datasets import _download, _osf


@dataclass
class Reply:
    """What is behind an address.

    `cuts` are numbers of bytes after which the next answers break off; `status` replaces the usual one.
    """

    body: bytes
    cuts: list[int] = field(default_factory=list)
    ranges: bool = True
    status: int | None = None


class Host:
    """Loopback server; `replies` by path, `asked` is what clients asked: (path, Range or None)."""

    def __init__(self) -> None:
        self.replies: dict[str, Reply] = {}
        self.asked: list[tuple[str, str | None]] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.answer(self)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def put(self, path: str, body: bytes, **kwargs: Any) -> str:
        """Serve a file; return its address."""
        self.replies[path] = Reply(body, **kwargs)
        return self.url + path

    def put_osf(self, node: str, files: dict[str, bytes], hashes: bool = True) -> None:
        """Serve a project of the Open Science Framework: files in a folder in a folder, listed one per page."""
        top, folder = f"/v2/nodes/{node}/files/osfstorage/", f"/v2/nodes/{node}/files/osfstorage/abc/"
        entries = []
        for number, (name, body) in enumerate(files.items()):
            address = self.put(f"/download/{node}{number}/", body)
            extra = {"hashes": {"md5": "0", "sha256": sha256(body).hexdigest()}} if hashes else {}
            attributes = {"kind": "file", "name": name, "size": len(body), "extra": extra}
            entries.append({"attributes": attributes, "links": {"download": address}})
        contents = {"files": {"links": {"related": {"href": self.url + folder, "meta": {}}}}}
        folders = [{"attributes": {"kind": "folder", "name": "data-prep"}, "relationships": contents, "links": {}}]
        self.put(top, json.dumps({"data": folders, "links": {"next": None}}).encode())
        for number, entry in enumerate(entries):
            following = f"{self.url}{folder}{number + 1}" if number + 1 < len(entries) else None
            page = json.dumps({"data": [entry], "links": {"next": following}}).encode()
            self.put(folder + (str(number) if number else ""), page)

    def downloads(self) -> list[tuple[str, str | None]]:
        """What was asked, without listings."""
        return [(path, piece) for path, piece in self.asked if "/nodes/" not in path]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        piece = request.headers.get("Range")
        self.asked.append((request.path, piece))
        reply = self.replies.get(request.path)
        if reply is None:
            request.send_error(404)
            return
        start = int(piece.removeprefix("bytes=").removesuffix("-")) if piece and reply.ranges else 0
        if start >= len(reply.body) > 0:
            request.send_error(416)
            return
        body = reply.body[start:]
        request.send_response(reply.status or (206 if start else 200))
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: reply.cuts.pop(0)] if reply.cuts else body)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host that is also taken for the Open Science Framework."""
    host = Host()
    monkeypatch.setattr(_osf, "OSF_API", f"{host.url}/v2")
    yield host
    host.close()


@pytest.fixture
def nowhere() -> str:
    """An address where nobody answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of downloads, in place of the user's."""
    monkeypatch.setenv(_download.DATA_DIR, str(tmp_path / "cache"))
    monkeypatch.delenv(_download.MIRROR, raising=False)
    return tmp_path / "cache"


GENES = [f"G{number}" for number in range(896)] + ["MT-CO1", "MT-ND1", "MGMT-AS1", "EMPTY"]


def draw_counts(n_cells: int, seed: int) -> np.ndarray:
    """Counts of which most cells are good: the first three have few genes, the next three much mitochondrial RNA."""
    rng = np.random.default_rng(seed)
    mean = rng.gamma(4.0, 1.0, len(GENES))
    mean[GENES.index("EMPTY")] = 0
    counts = rng.poisson(mean * rng.uniform(0.8, 1.2, (n_cells, 1))).astype(np.float32)
    counts[:3, 600:] = 0
    counts[3:6, GENES.index("MT-CO1")] = 3000
    return counts


def _sciplex(seed: int, n_cells: int = 80) -> ad.AnnData:
    """A chunk laid out as ``sciplex_raw_chunk_0.h5ad``."""
    rng = np.random.default_rng(seed)
    product = rng.choice(["Vehicle", "Drug (A-1)", "Other Acid", "Third"], n_cells)
    dose = np.where(product == "Vehicle", 0.0, rng.choice([10.0, 100.0, 1000.0, 10000.0], n_cells))
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical(rng.choice(["A549", "K562", "MCF7"], n_cells)),
            "dose": dose,
            "dose_character": pd.Categorical(dose.astype(int).astype(str)),
            "product_name": pd.Categorical(product),
            "replicate": pd.Categorical(rng.choice(["rep1", "rep2"], n_cells)),
        },
        index=pd.Index([f"A01_{number}" for number in range(n_cells)], name="index"),
    )
    var = pd.DataFrame({"id": [f"ENSG{number}" for number in range(len(GENES))]}, index=pd.Index(GENES, name="index"))
    return ad.AnnData(sparse.csr_matrix(draw_counts(n_cells, seed)), obs, var)


def _marson(seed: int = 0, n_cells: int = 200) -> ad.AnnData:
    """A file laid out as ``marson_formatted_raw.h5ad``; cells 6 to 9 are not assigned."""
    rng = np.random.default_rng(seed)
    counts = draw_counts(n_cells, seed)
    cell_type = rng.choice(["CD4", "CD8"], n_cells).astype(object)
    donor = rng.choice(["Donor1", "Donor2"], n_cells).astype(object)
    stim = rng.choice(["Resting", "Re-stimulated"], n_cells).astype(object)
    n_counts = counts.sum(axis=1)
    cell_type[6:8], donor[8] = "Unassigned", "Unassigned"
    cell_type[9], donor[9], stim[9], n_counts[9] = "", "", "", 0
    obs = pd.DataFrame(
        {
            "barcode": [f"AAAC{number}-1" for number in range(n_cells)],
            "nCount_RNA": n_counts,
            "cluser_name": pd.Categorical(["6: CD4 Common"] * n_cells),
            "celltype": pd.Categorical(cell_type),
            "donor": pd.Categorical(donor),
            "stim": pd.Categorical(stim),
            "target": pd.Categorical(rng.choice(["NTC", "G3", "G5", "G7"], n_cells)),
        },
        index=[str(number) for number in range(n_cells)],
    )
    var = pd.DataFrame({"ENSGNM": "ENSG", "name": GENES, "is_sgRNA": False}, index=[str(n) for n in range(len(GENES))])
    return ad.AnnData(sparse.csr_matrix(counts), obs, var)


def _l008(seed: int = 0, n_cells: int = 240) -> ad.AnnData:
    """A file laid out as ``L008_rna_counts.h5ad``; cells 6 to 8 have no known target."""
    rng = np.random.default_rng(seed)
    donor, cas9 = rng.integers(2, 4, n_cells), rng.choice(["Cas9+", "Cas9-"], n_cells, p=[0.8, 0.2])
    state = rng.choice(["IFNg+", "restim", "stim"], n_cells)
    target = rng.choice(["NTC", "G2", "G4", "G6"], n_cells).astype(object)
    target[6:9] = "NA"
    condition = [f"{d}, Donor#{d} {c} {s}" for d, c, s in zip(donor, cas9, state, strict=True)]
    obs = pd.DataFrame(
        {"condition": pd.Categorical(condition), "target_gene": pd.Categorical(target)},
        index=[str(number) for number in range(n_cells)],
    )
    return ad.AnnData(sparse.csr_matrix(draw_counts(n_cells, seed)), obs, pd.DataFrame(index=GENES))


def _kang(seed: int = 0, n_cells: int = 150) -> ad.AnnData:
    """A file laid out as ``kang_2018.h5ad``, stored by gene."""
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(
        {
            "label": pd.Categorical(rng.choice(["ctrl", "stim"], n_cells)),
            "cell_type": pd.Categorical(rng.choice(["CD14+ Monocytes", "CD4 T cells", "Megakaryocytes"], n_cells)),
            "replicate": pd.Categorical(rng.choice(["patient_101", "patient_1015"], n_cells)),
        },
        index=[f"cell{number}" for number in range(n_cells)],
    )
    return ad.AnnData(sparse.csc_matrix(draw_counts(n_cells, seed)), obs, pd.DataFrame(index=GENES))


@pytest.fixture
def draw_sciplex() -> Callable[..., ad.AnnData]:
    return _sciplex


@pytest.fixture
def draw_marson() -> Callable[..., ad.AnnData]:
    return _marson


@pytest.fixture
def draw_l008() -> Callable[..., ad.AnnData]:
    return _l008


@pytest.fixture
def draw_kang() -> Callable[..., ad.AnnData]:
    return _kang


@pytest.fixture
def to_bytes(tmp_path: Path) -> Callable[[ad.AnnData], bytes]:
    """What an .h5ad file of the data holds."""

    def write(adata: ad.AnnData) -> bytes:
        adata.write_h5ad(tmp_path / "published.h5ad")
        return (tmp_path / "published.h5ad").read_bytes()

    return write
