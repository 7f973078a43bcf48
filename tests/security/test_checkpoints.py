"""A model file, a network file or a checkpoint from a stranger is refused or read as plain data; it never runs code."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import Data

import scgraphvci as sgv

FILE = "model.safetensors"
GENES = ["A", "B", "C"]


def make_data() -> ad.AnnData:
    obs = pd.DataFrame({"perturbation": np.resize(["control", "A", "B"], 30)}, index=[f"c{i}" for i in range(30)])
    return ad.AnnData(np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32), obs=obs)


@pytest.fixture(scope="module")
def model():
    adata = make_data()
    sgv.GraphVCI.setup_anndata(adata)
    model = sgv.GraphVCI(adata, n_hidden=4, n_latent=2)
    model.is_trained_ = True
    return model


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "m")
    return tmp_path / "m" / FILE


class Payload:
    """Touches a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


# --- files with code ---


def as_pickle(payload, path):
    path.write_bytes(pickle.dumps(payload))


def as_torch(payload, path):
    torch.save(payload, path)


def as_old_torch(payload, path):
    torch.save(payload, path, _use_new_zipfile_serialization=False)


def as_weights(payload, path):
    torch.save({"state_dict": {"w": torch.ones(1)}, "epoch": 1, "callbacks": {"x": payload}}, path)


def as_graph(payload, path):
    graph = Data(torch.zeros(3, 2), torch.tensor([[0], [1]]))
    graph.name = payload
    torch.save(graph, path)


def as_object_array(payload, path):
    with path.open("wb") as file:
        np.save(file, np.array([payload], dtype=object), allow_pickle=True)


WRITERS = [as_pickle, as_torch, as_old_torch, as_weights, as_graph, as_object_array]
LOADERS = {
    "model": lambda path, model: sgv.GraphVCI.load(path.parent, make_data()),
    "registry": lambda path, model: sgv.GraphVCI.load_registry(path.parent),
    "refiner": lambda path, model: sgv.GRNRefiner.load(path.parent, adata=False),
    "network": lambda path, model: sgv.grn.read_graphvci(path, GENES),
    "table": lambda path, model: sgv.grn.read_net(path),
    "resumed training": lambda path, model: model.train(
        1, ckpt_path=str(path), accelerator="cpu", enable_progress_bar=False, logger=None, enable_model_summary=False
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("writer", WRITERS, ids=lambda writer: writer.__name__)
@pytest.mark.parametrize("loader", LOADERS)
def test_no_loader_runs_code_from_a_file(model, tmp_path, writer, loader):
    marker, path = tmp_path / "executed", tmp_path / FILE
    writer(Payload(marker), path)
    with pytest.raises(ValueError, match=FILE):
        LOADERS[loader](path, model)
    assert not marker.exists()


@pytest.mark.parametrize("writer", [as_pickle, as_torch, as_old_torch], ids=lambda writer: writer.__name__)
def test_the_payload_would_have_run(tmp_path, writer):
    marker, path = tmp_path / "executed", tmp_path / FILE
    writer(Payload(marker), path)
    if writer is as_pickle:
        pickle.loads(path.read_bytes())
    else:
        torch.load(path.rename(tmp_path / "model.pt"), weights_only=False)
    assert marker.exists()


# --- what JSON and tensors may not say ---


def weight(tensors):
    return max((name for name in tensors if name.startswith("module.")), key=lambda name: tensors[name].numel())


def set_weight(change):
    def edit(tensors):
        name = weight(tensors)
        tensors[name] = change(tensors[name])

    return edit


def with_nan(tensor):
    tensor.view(-1)[0] = float("nan")
    return tensor


WEIGHTS = {
    "NaN": set_weight(with_nan),
    "infinite": set_weight(lambda tensor: tensor / 0),
    "of another shape": set_weight(lambda tensor: tensor.reshape(-1)),
    "complex": set_weight(lambda tensor: tensor.to(torch.complex64)),
    "text as bytes": set_weight(lambda tensor: torch.zeros(3, dtype=torch.uint8)),
    "empty": set_weight(lambda tensor: tensor[:0]),
    "missing": lambda tensors: tensors.pop(weight(tensors)),
    "superfluous": lambda tensors: tensors.update({"module.__class__": torch.ones(1)}),
}


@pytest.mark.parametrize("edit", WEIGHTS.values(), ids=list(WEIGHTS))
def test_weights_that_do_not_fit_are_refused(forge, saved, edit):
    forge(saved, edit_tensors=edit)
    with pytest.raises(ValueError, match=FILE):
        sgv.GraphVCI.load(saved.parent, make_data())


def test_gene_names_by_modality_are_refused_for_anndata(forge, saved):
    forge(saved, lambda contents: contents.update(var_names={"": None}))
    with pytest.raises(ValueError, match=rf"{FILE} has gene names by modality, and `adata` is an AnnData"):
        sgv.GraphVCI.load(saved.parent, make_data())


def header(path, text):
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 64)


HEADERS = {
    "a length beyond the file": lambda path: path.write_bytes(struct.pack("<Q", 2**63) + b"{}"),
    "a length beyond all limits": lambda path: path.write_bytes(struct.pack("<Q", 2**31) + b" " * 100),
    "a tensor beyond the file": lambda path: header(
        path, b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'
    ),
    "more elements than bytes": lambda path: header(
        path, b'{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,64]}}'
    ),
    "an overflowing shape": lambda path: header(
        path, b'{"w":{"dtype":"F32","shape":[4294967296,4294967296,16],"data_offsets":[0,64]}}'
    ),
    "tensors that overlap": lambda path: header(
        path,
        b'{"v":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"w":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}',
    ),
    "a hole": lambda path: header(path, b'{"w":{"dtype":"F32","shape":[8],"data_offsets":[32,64]}}'),
    "no dtype of numbers": lambda path: header(path, b'{"w":{"dtype":"O","shape":[8],"data_offsets":[0,64]}}'),
    "deep nesting": lambda path: header(path, b'{"__metadata__":' + b"[" * 10**5 + b"]" * 10**5 + b"}"),
}


@pytest.mark.parametrize("write", HEADERS.values(), ids=list(HEADERS))
def test_headers_that_lie_are_refused(tmp_path, write):
    write(tmp_path / FILE)
    with pytest.raises(ValueError, match=FILE):
        sgv.GraphVCI.load(tmp_path, adata=False)


def test_a_save_replaces_a_link_and_leaves_what_it_points_to(model, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "precious").write_text("precious")
    for name in (FILE, "adata.h5ad"):
        (tmp_path / "m" / name).symlink_to(tmp_path / "precious")
    model.save(tmp_path / "m", overwrite=True, save_anndata=True)
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "m" / FILE).is_symlink()


# --- networks ---

ONE = torch.zeros(1, dtype=torch.long)
EDGES = torch.tensor([[0, 1], [1, 2]])
GRAPHS = {
    "a size that strides declare": Data(torch.zeros(3, 2), ONE.expand(2, 10**12)),
    "weights that strides declare": Data(torch.zeros(3, 2), EDGES, torch.ones(1).expand(10**12)),
    "nodes that strides declare": Data(torch.zeros(1).expand(10**13, 2), EDGES),
    "NaN weight": Data(torch.zeros(3, 2), EDGES, torch.tensor([1.0, float("nan")])),
    "infinite weight": Data(torch.zeros(3, 2), EDGES, torch.tensor([1.0, float("inf")])),
    "NaN index": Data(torch.zeros(3, 2), torch.tensor([[0, float("nan")], [1, 2]])),
    "broken index": Data(torch.zeros(3, 2), torch.tensor([[0, 0.5], [1, 2]])),
    "negative index": Data(torch.zeros(3, 2), torch.tensor([[0, -1], [1, 2]])),
    "complex index": Data(torch.zeros(3, 2), torch.tensor([[0, 1j], [1, 2]])),
    "list": Data(torch.zeros(3, 2), EDGES.tolist()),
    "text": Data(torch.zeros(3, 2), "edges"),
    "list of weights": Data(torch.zeros(3, 2), EDGES, [1.0, 2.0]),
    "list of features": Data([1, 2, 3], EDGES),
    "one feature": Data(torch.tensor(3.0), EDGES),
    "sparse": Data(torch.zeros(3, 2), torch.eye(3).to_sparse()),
    "weights of a matrix in another shape": Data(torch.zeros(3, 2), torch.eye(3), torch.ones(9)),
    "text for the number of nodes": Data(None, EDGES, num_nodes="3"),
    "half a node": Data(None, EDGES, num_nodes=3.5),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=list(GRAPHS))
def test_graphs_that_are_none_are_refused(tmp_path, graph):
    torch.save(graph, tmp_path / "grn.pth")
    with pytest.raises(ValueError, match=r"grn\.pth|3 `var_names`|weights of `path`|damaged"):
        sgv.grn.read_graphvci(tmp_path / "grn.pth", GENES)


@pytest.mark.parametrize("suffix", [".zip", ".csv.zip", ".tar", ".csv.tar.gz", ".pkl", ".pickle", ".npy", ".npz"])
def test_archives_and_pickles_are_no_tables(tmp_path, suffix):
    """So no archive is unpacked, whatever names it holds."""
    path = tmp_path / f"net{suffix}"
    path.write_bytes(b"source,target,weight\nA,B,1\n")
    with pytest.raises(ValueError, match=r"must end in \.csv"):
        sgv.grn.read_net(path)
    assert list(tmp_path.iterdir()) == [path]
