"""Whatever a model file or a data file holds, it is loaded or clearly refused; a loaded model predicts numbers."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

import scgraphvci as sgv
from scgraphvci import _archive, _codec
from scgraphvci._untrusted import read_h5ad

pytestmark = pytest.mark.filterwarnings("ignore")
FILE = "model.safetensors"
LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 40), st.floats(), st.text(max_size=5),
    st.sampled_from([10**30, "control", "A", "__type__", "setup_anndata", "normal", "0", "1", "nan", -1]),
)  # fmt: skip
TAGS = st.sampled_from([*sorted(_codec._DECODERS), "none"])
FIELDS = [
    "items", "value", "array", "tensor", "kind", "shape", "codes", "categories", "ordered", "values", "index",
    "columns", "name", "dtype",
]  # fmt: skip


def deeper(inner):
    """Lists and dicts of values, and what the codec takes for an object of its own."""
    tagged = st.builds(
        lambda tag, fields: {"__type__": tag, **fields},
        TAGS,
        st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, inner)),
    )
    return st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3), tagged)


JSON = st.recursive(LEAVES, deeper, max_leaves=5)


def make_data() -> ad.AnnData:
    obs = pd.DataFrame(
        {"perturbation": np.resize(["control", "A", "B"], 24), "x": np.resize(["s", "t"], 24)},
        index=[f"c{i}" for i in range(24)],
    )
    return ad.AnnData(np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32), obs=obs)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model with its data; the text and the tensors of its file."""
    folder = tmp_path_factory.mktemp("saved") / "m"
    adata = make_data()
    sgv.GraphVCI.setup_anndata(adata, categorical_covariate_keys=["x"])
    model = sgv.GraphVCI(adata, n_hidden=4, n_latent=2)
    model.is_trained_ = True
    model.save(folder, save_anndata=True)
    with safe_open(folder / FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        return folder, file.metadata()["scgraphvci"], tensors


def places(value, path=()):
    """Every place in nested lists and dicts."""
    yield path
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in children:
        yield from places(item, (*path, key))


def put(value, path, new):
    if not path:
        return new
    value[path[0]] = put(value[path[0]], path[1:], new)
    return value


def loads_or_refuses(attempt, folder):
    """What is loaded predicts finite numbers."""
    adata = make_data()
    model = attempt(sgv.GraphVCI.load, folder, adata)
    if model is not attempt.refused and not model.is_trained_:  # so the file says
        with pytest.raises(RuntimeError, match="untrained model"):
            model.predict("A", source="all")
        model.deregister_manager(adata)
    elif model is not attempt.refused:
        predicted = attempt(model.predict, "A", source="all")
        assert predicted is attempt.refused or np.isfinite(predicted.X).all()
        model.deregister_manager(adata)


@given(position=st.floats(0, 1), new=JSON, remove=st.booleans())
def test_forged_text(attempt, saved, position, new, remove):
    """One value of the text is another, and the checksum holds."""
    folder, text, tensors = saved
    contents = json.loads(text)
    every = list(places(contents))[1:]
    path = every[int(position * (len(every) - 1))]
    if remove:
        parent = contents
        for key in path[:-1]:
            parent = parent[key]
        del parent[path[-1]]
    else:
        contents = put(contents, path, new)
    with tempfile.TemporaryDirectory() as place:
        archive = _archive.Archive(json.dumps(contents), tensors)
        metadata = {"scgraphvci": archive.text, "sha256": _archive._checksum(archive)}
        save_file(tensors, Path(place) / FILE, metadata=metadata)
        loads_or_refuses(attempt, place)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), min_size=1, max_size=3),
    st.one_of(st.none(), st.floats(0, 1)),
)
def test_damaged_bytes(attempt, saved, flips, cut):
    content = bytearray((saved[0] / FILE).read_bytes())
    for position, change in flips:
        content[int(position * (len(content) - 1))] ^= change
    content = content if cut is None else content[: int(cut * len(content))]
    if content == (saved[0] / FILE).read_bytes():
        return
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / FILE).write_bytes(content)
        assert attempt(sgv.GraphVCI.load, place, adata=False) is attempt.refused


@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(lambda n, rest: n.to_bytes(8, "little") + rest, st.integers(0, 300), st.binary(max_size=300)),
    )
)
def test_model_files_of_anything(attempt, content):
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / FILE).write_bytes(content)
        assert attempt(sgv.GraphVCI.load, place, adata=False) is attempt.refused


@given(JSON)
def test_decode(attempt, value):
    """The reader of the codec raises what `_archive.read` turns into a refusal, and nothing else."""
    try:
        _codec.decode(value, {})
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError):
        pass


NAMES = ["X", "obs", "var", "uns", "varp", "obs/perturbation", "obs/_index", "uns/x", "obsm"]


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(["soft", "external", "again", "virtual", "gone"])),
             min_size=1, max_size=3)
)  # fmt: skip
def test_linked_data(attempt, saved, edits):
    """An HDF5 file whose parts were put elsewhere, doubled or taken away is refused unless all of it lies in place."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(shutil.copy(saved[0] / "adata.h5ad", place))
        clean = True
        with h5py.File(path, "r+") as file:
            for name, kind in edits:
                try:
                    if name in file:
                        del file[name]
                    if kind == "soft":
                        file[name] = h5py.SoftLink("/obs")
                    elif kind == "external":
                        file[name] = h5py.ExternalLink("/etc/other.h5", "/X")
                    elif kind == "again":
                        file[name] = file["/"]
                    elif kind == "virtual":
                        layout = h5py.VirtualLayout((2,), "f4")
                        layout[:] = h5py.VirtualSource("other.h5", "X", (2,))
                        file.create_virtual_dataset(name, layout)
                except (KeyError, ValueError, OSError, TypeError, RuntimeError):  # HDF5 has no such place now
                    continue
                clean = clean and kind == "gone"
        if clean:
            return
        with h5py.File(path, "r") as file:
            links = []
            file.visititems_links(lambda name, link: links.append(link))
            plain = all(isinstance(link, h5py.HardLink) for link in links)
        if not plain:
            assert attempt(read_h5ad, path) is attempt.refused
