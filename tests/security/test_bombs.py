"""Small files that would fill memory, and files that show what lies elsewhere on the disk of their reader."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import Data

import scgraphvci as sgv
from scgraphvci import _codec, _untrusted
from scgraphvci._untrusted import check_hdf5, read_h5ad

SECRET = b"what nobody else may read"


@pytest.fixture
def small(monkeypatch):
    """Limits that files of kilobytes reach."""
    monkeypatch.setattr(_untrusted, "LARGEST", 100_000)


# --- HDF5 ---


def make_data() -> ad.AnnData:
    obs = pd.DataFrame({"perturbation": np.resize(["control", "A"], 20)}, index=[f"c{i}" for i in range(20)])
    return ad.AnnData(np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32), obs=obs)


def as_array(dataset):
    dataset.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def external_array(file, folder):
    as_array(file.create_dataset("uns/leak", (len(SECRET),), "u1", external=[(str(folder / "secret"), 0, len(SECRET))]))


def external_link(file, folder):
    file["uns/leak"] = h5py.ExternalLink(str(folder / "other.h5ad"), "/X")


def virtual_array(file, folder):
    layout = h5py.VirtualLayout((20, 3), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.h5ad"), "X", (20, 3))
    as_array(file.create_virtual_dataset("uns/leak", layout))


def soft_link(file, folder):
    file["uns/again"] = h5py.SoftLink("/uns")


def dangling_link(file, folder):
    file["uns/nothing"] = h5py.SoftLink("/nothing")


def group_in_itself(file, folder):
    file["uns/again"] = file["uns"]


def declared_array(file, folder):
    as_array(file.create_dataset("uns/large", (10**10,), "u1", chunks=(2**20,), compression="gzip"))


def compressed_array(file, folder):
    as_array(file.create_dataset("uns/large", data=np.zeros(40_000_000, "u1"), compression="gzip"))


LEAKS = [external_array, external_link, virtual_array]
LOOPS = [soft_link, dangling_link, group_in_itself]


@pytest.fixture
def hostile(tmp_path):
    """Make an .h5ad and spoil it."""
    (tmp_path / "secret").write_bytes(SECRET)
    make_data().write_h5ad(tmp_path / "other.h5ad")

    def make(spoil):
        path = tmp_path / "data.h5ad"
        make_data().write_h5ad(path)
        with h5py.File(path, "r+") as file:
            spoil(file, tmp_path)
        return path

    return make


@pytest.mark.parametrize("spoil", [*LEAKS, *LOOPS], ids=lambda spoil: spoil.__name__)
def test_hdf5_that_leads_elsewhere_is_refused(hostile, spoil):
    path = hostile(spoil)
    with pytest.raises(ValueError, match=r"data\.h5ad': '/+uns/.* is an? .*read it with anndata yourself"):
        read_h5ad(path)


@pytest.mark.parametrize("spoil", LEAKS, ids=lambda spoil: spoil.__name__)
def test_anndata_itself_would_have_read_it(hostile, spoil):
    leaked = ad.read_h5ad(hostile(spoil)).uns["leak"]
    assert leaked.tobytes() == SECRET if spoil is external_array else leaked.shape == (20, 3)


@pytest.mark.parametrize(("spoil", "size"), [(declared_array, 10**10), (compressed_array, 4 * 10**7)])
def test_hdf5_that_unfolds_is_refused(hostile, small, spoil, size):
    path = hostile(spoil)
    assert size > _untrusted.RATIO * path.stat().st_size
    with pytest.raises(ValueError, match=rf"unfolds to {str(size)[0]}\d+ or more") as caught:
        read_h5ad(path)
    assert int(str(caught.value).split("unfolds to ")[1].split()[0]) == pytest.approx(size, rel=1e-3)


def test_what_anndata_writes_is_read_as_anndata_reads_it(make_screen, tmp_path):
    adata = make_screen()
    adata.uns["nested"] = {"a": {"b": np.arange(3)}, "text": "x", "frame": pd.DataFrame({"c": ["u", "v"]})}
    adata.write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    for found, expected in zip(
        (read_h5ad(tmp_path / "a.h5ad"), ad.read_h5ad(tmp_path / "a.h5ad")), (adata, adata), strict=True
    ):
        np.testing.assert_array_equal(found.to_df(), expected.to_df())
        assert found.uns["nested"]["a"]["b"].tolist() == [0, 1, 2]


def test_another_kind_of_file_is_refused_as_anndata_refuses_it(tmp_path):
    (tmp_path / "a.h5ad").write_bytes(b"no HDF5")
    with pytest.raises(OSError, match="file signature not found"):
        check_hdf5(tmp_path / "a.h5ad")
    with pytest.raises(FileNotFoundError):
        check_hdf5(tmp_path / "none.h5ad")


def test_data_beside_a_model_are_checked(hostile, tmp_path):
    adata = make_data()
    sgv.GraphVCI.setup_anndata(adata)
    model = sgv.GraphVCI(adata, n_hidden=4, n_latent=2)
    model.is_trained_ = True
    model.save(tmp_path / "m", save_anndata=True)
    assert sgv.GraphVCI.load(tmp_path / "m").adata.n_obs == 20
    hostile(external_array).replace(tmp_path / "m" / "adata.h5ad")
    with pytest.raises(ValueError, match="an array that lies in other files"):
        sgv.GraphVCI.load(tmp_path / "m")


def test_published_screens_are_checked(hostile):
    with pytest.raises(ValueError, match="an array that lies in other files"):
        sgv.datasets.sciplex(hostile(external_array), processed=False)


def test_networks_of_a_mudata_are_checked(hostile, tmp_path):
    path = hostile(external_array).rename(tmp_path / "scplusmdata.h5mu")
    with pytest.raises(ValueError, match="an array that lies in other files"):
        sgv.grn.read_scenicplus(path)


# --- tables and lists ---

BOMBS = {
    "net.csv.gz": (sgv.grn.read_net, b"source,target\n", b"A,B\n"),
    "net.tsv.gz": (sgv.grn.read_net, b"source\ttarget\n", b"A\tB\n"),
    "genes.gtf.gz": (sgv.grn.read_gtf, b"", b'chr1\tx\tgene\t1\t9\t.\t+\t.\tgene_name "A"\n'),
    "one line.gtf.gz": (sgv.grn.read_gtf, b"", b"chr1"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_gzip_that_unfolds_is_refused(small, tmp_path, name):
    reader, head, line = BOMBS[name]
    path = tmp_path / name
    path.write_bytes(gzip.compress(head + line * (4_000_000 // len(line))))
    assert path.stat().st_size < 13_000
    with pytest.raises(ValueError, match="unfolds to .* or more, over 300 times as many"):
        reader(path)


def test_gene_sets_that_unfold_are_refused(small, tmp_path, screen):
    path = tmp_path / "sets.gmt.gz"
    path.write_bytes(gzip.compress(b"set\tabout it\t" + b"gene0\t" * 700_000))
    with pytest.raises(ValueError, match="unfolds to"):
        sgv.pp.gene_set_features(screen, path)


def test_gzip_is_stopped_before_memory_fills(small, tmp_path):
    path = tmp_path / "zeros.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(40):
            file.write(bytes(10**6))
    with _untrusted.open_gzip(path) as stream, pytest.raises(ValueError, match="unfolds to"):
        stream.read()
    with _untrusted.open_gzip(path) as stream:
        stream.read(10**5)
        assert stream.raw._count < 10**7  # of 4 x 10**7


def test_gzip_within_the_limit_is_read_whole(small, tmp_path):
    net = pd.DataFrame({"source": "A", "target": [f"B{i}" for i in range(2000)], "weight": 1.0})
    net.to_csv(tmp_path / "net.csv.gz", index=False)
    net.to_csv(tmp_path / "net.csv", index=False)
    assert len(sgv.grn.read_net(tmp_path / "net.csv.gz")) == 2000
    pd.testing.assert_frame_equal(sgv.grn.read_net(tmp_path / "net.csv.gz"), sgv.grn.read_net(tmp_path / "net.csv"))


def test_parquet_that_unfolds_is_refused(small, tmp_path):
    pytest.importorskip("pyarrow")
    net = pd.DataFrame({"source": "A", "target": "B", "weight": np.ones(500_000)})
    net.to_parquet(tmp_path / "net.parquet")
    with pytest.raises(ValueError, match="unfolds to 12000000 or more"):
        sgv.grn.read_net(tmp_path / "net.parquet")
    net[:50].to_parquet(tmp_path / "net.parquet")
    assert set(sgv.grn.read_net(tmp_path / "net.parquet")["source"]) == {"A"}


# --- torch's archives, and text in a model file ---


def deflated(source: Path, target: Path) -> Path:
    with zipfile.ZipFile(source) as plain, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as packed:
        for entry in plain.infolist():
            packed.writestr(entry.filename, plain.read(entry))
    return target


def test_compressed_graphs_are_refused(tmp_path):
    graph = Data(torch.zeros(3, 2), torch.zeros(2, 100_000, dtype=torch.long))
    torch.save(graph, tmp_path / "plain.pth")
    assert len(sgv.grn.read_graphvci(tmp_path / "plain.pth", ["A", "B", "C"])) == 100_000
    bomb = deflated(tmp_path / "plain.pth", tmp_path / "bomb.pth")
    assert bomb.stat().st_size < 10_000
    torch.load(bomb, weights_only=False)  # so torch unfolds it
    with pytest.raises(ValueError, match=r"bomb\.pth' is compressed"):
        sgv.grn.read_graphvci(bomb, ["A", "B", "C"])


def test_compressed_checkpoints_are_refused(tmp_path):
    torch.save({"state_dict": {"w": torch.zeros(1000)}}, tmp_path / "plain.ckpt")
    bomb = deflated(tmp_path / "plain.ckpt", tmp_path / "bomb.ckpt")
    reader = sgv.train._checkpoint.TensorsOnly()
    assert reader.load_checkpoint(tmp_path / "plain.ckpt")["state_dict"]["w"].shape == (1000,)
    with pytest.raises(ValueError, match=r"bomb\.ckpt' is compressed"):
        reader.load_checkpoint(bomb)


def test_text_that_grows_with_its_longest_item_is_refused():
    """A NumPy array of text gives every item the room of the longest: here 4 x 10**11 bytes of a megabyte."""
    value = {"__type__": "array", "kind": "U", "shape": [100_001], "items": ["x" * 10**6] + [""] * 10**5}
    with pytest.raises(ValueError, match="100001000000 characters"):
        _codec.decode(value, {})
    value |= {"shape": [3], "items": ["x" * 10**6, "", "y"]}
    assert _codec.decode(value, {}).tolist()[1:] == ["", "y"]
