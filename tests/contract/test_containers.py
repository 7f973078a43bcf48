"""Results do not depend on what holds expression: memory, a file, a zarr store, dask; in X or in a layer."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scvi
import zarr

import scgraphvci as sgv
from scgraphvci._constants import KEYS
from scgraphvci.data._rows import StoredRows

SETUP = {"categorical_covariate_keys": ["cell_type", "donor"], "split_key": "split"}


def h5ad(adata, path):
    adata.write_h5ad(path / "a.h5ad")
    return ad.read_h5ad(path / "a.h5ad", backed="r")


def zarr_store(adata, path, is_sparse):
    """Expression stays in the store; all else is read, as anndata has no backed mode for zarr."""
    adata.write_zarr(path / "a.zarr")
    stored = zarr.open(path / "a.zarr", mode="r")["X"]
    adata.X = None
    adata.X = ad.io.sparse_dataset(stored) if is_sparse else stored
    return adata


def dask_array(matrix, n_rows=50):
    dask = pytest.importorskip("dask.array")
    return dask.from_array(matrix, chunks=(n_rows, matrix.shape[1]), asarray=False)


def lazy(adata, path, name):
    pytest.importorskip("dask")
    pytest.importorskip("xarray")
    getattr(adata, f"write_{name}")(path / f"a.{name}")
    found = ad.experimental.read_lazy(path / f"a.{name}")
    found.obs, found.var = found.obs.to_memory(), found.var.to_memory()
    return found


def with_x(adata, x):
    adata.X = x
    return adata


def in_layer(adata, x):
    adata.layers["logged"], adata.X = x, None
    return adata


CONTAINERS = {
    "csr": lambda a, path: a,
    "csc": lambda a, path: with_x(a, a.X.tocsc()),
    "dense": lambda a, path: with_x(a, a.X.toarray()),
    "backed csr": h5ad,
    "backed dense": lambda a, path: h5ad(with_x(a, a.X.toarray()), path),
    "zarr csr": lambda a, path: zarr_store(a, path, is_sparse=True),
    "zarr dense": lambda a, path: zarr_store(with_x(a, a.X.toarray()), path, is_sparse=False),
    "dask of dense": lambda a, path: with_x(a, dask_array(a.X.toarray())),
    "dask of csr": lambda a, path: with_x(a, dask_array(a.X)),
    "lazy h5ad": lambda a, path: lazy(a, path, "h5ad"),
    "lazy zarr": lambda a, path: lazy(a, path, "zarr"),
    "csr layer": lambda a, path: in_layer(a, a.X),
    "dask layer": lambda a, path: in_layer(a, dask_array(a.X.toarray())),
}
IN_MEMORY = ("csr", "csc", "dense", "csr layer")


def results(adata, fit, quiet):
    """Moments, predictions, effects and refined edges, by name."""
    layer = "logged" if "logged" in adata.layers else None
    model = fit(adata, setup={"layer": layer})
    found = {name: getattr(model.module, name).numpy() for name in ("input_mean", "within_scale")}
    moments = model._moments(model._registered_cells(), np.flatnonzero(adata.obs["split"] == "train"))
    found |= {name: getattr(moments, name) for name in ("mean", "variance")}
    treatment = model.treatments.perturbations[0]
    found["prediction"] = model.predict(treatment, indices=[200, 3, 50, 3]).X
    found["effects"] = model.marginal_effect().estimate
    scvi.settings.seed = 0
    sgv.tl.refine_grn(adata, layer=layer, max_epochs=1, **SETUP, **quiet)
    found["refined"] = adata.varp["grn_refined"].toarray()
    return found, isinstance(model.adata_manager.get_from_registry(KEYS.OUTCOME), StoredRows)


@pytest.fixture(scope="module")
def expected(new_screen, fit, quiet):
    return results(new_screen(), fit, quiet)[0]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::zarr.errors.UnstableSpecificationWarning")
@pytest.mark.parametrize("name", CONTAINERS)
def test_results_are_equal_whatever_holds_expression(name, new_screen, fit, quiet, expected, tmp_path):
    adata = CONTAINERS[name](new_screen(), tmp_path)
    before = type(adata.X)
    found, stored = results(adata, fit, quiet)
    assert type(adata.X) is before
    assert stored is (name not in IN_MEMORY)
    for key, values in found.items():
        np.testing.assert_allclose(values, expected[key], rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize(
    ("container", "error", "message"),
    [
        (lambda a, path: h5ad(with_x(a, a.X.tocsc()), path), ValueError, r"backed CSC.*tocsr.*to_memory\(\)"),
        (
            lambda a, path: a.write_h5ad(path / "a.h5ad") or ad.experimental.read_lazy(path / "a.h5ad"),
            TypeError,
            r"obs and var .* read lazily.*`adata.obs = adata.obs.to_memory\(\)`",
        ),
    ],
    ids=["backed csc", "lazy obs"],
)
@pytest.mark.parametrize("model", [sgv.GraphVCI, sgv.GRNRefiner])
def test_what_cannot_be_read_is_refused_with_the_next_step(model, container, error, message, new_screen, tmp_path):
    pytest.importorskip("dask")
    with pytest.raises(error, match=message):
        model.setup_anndata(container(new_screen(), tmp_path), split_key="split", grn_key="grn")
