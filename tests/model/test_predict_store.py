"""Predictions that are written to a file or a zarr store are those in memory, and are never all in memory."""

from __future__ import annotations

import tracemalloc

import anndata as ad
import numpy as np
import pytest

from scgraphvci.data import _read


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("suffix", [".h5ad", ".zarr"])
def test_a_store_holds_what_memory_would(fitted, tmp_path, suffix):
    treatment, cells = fitted.treatments.perturbations[0], [200, 3, 50, 3]
    for number, options in enumerate([{}, {"source": "all", "batch_size": 50}, {"indices": cells}]):
        path = tmp_path / f"{number}{suffix}"
        expected = fitted.predict(treatment, **options)
        stored = fitted.predict(treatment, store=str(path), **options)
        assert not isinstance(stored.X, np.ndarray)
        if suffix == ".h5ad":
            assert stored.isbacked
            stored.file.close()
        read = ad.read_h5ad(path) if suffix == ".h5ad" else ad.read_zarr(path)
        for found in (read, stored) if suffix == ".zarr" else (read,):
            np.testing.assert_array_equal(np.asarray(found.X[:]), expected.X)
            assert found.obs_names.tolist() == expected.obs_names.tolist()
            assert found.var_names.tolist() == expected.var_names.tolist()
            assert found.obs["counterfactual_treatment"].tolist() == [treatment] * len(expected)
            assert found.obs["source_cell"].tolist() == expected.obs["source_cell"].tolist()
            assert found.uns["scgraphvci"]["scale"] == "outcome"


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [("a.csv", ValueError, "ends in '.h5ad' or '.zarr'"), ("old.h5ad", FileExistsError, "exists already. Remove it")],
)
def test_other_stores_are_refused(fitted, tmp_path, name, error, message):
    (tmp_path / "old.h5ad").write_text("precious")
    with pytest.raises(error, match=message):
        fitted.predict("control", store=tmp_path / name)
    assert (tmp_path / "old.h5ad").read_text() == "precious"


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_nothing_is_left_of_a_failed_prediction(fitted, tmp_path, name):
    with pytest.raises(ValueError, match="Unknown library"):
        fitted.predict("control", store=tmp_path / name, library="other")
    assert not (tmp_path / name).exists()


@pytest.fixture
def on_file(fitted, new_screen, tmp_path):
    """Opens the data of the model as a file."""
    opened = []

    def open_file(mode):
        if not opened:
            new_screen().write_h5ad(tmp_path / "a.h5ad")
        opened.append(ad.read_h5ad(tmp_path / "a.h5ad", backed=mode))
        return opened[-1]

    yield open_file
    for adata in opened:
        adata.file.close()


@pytest.mark.parametrize("indices", [None, [200, 3, 50, 3, 51]])
def test_layers_of_a_file_are_those_of_memory(fitted, new_screen, on_file, indices):
    treatments = fitted.treatments.perturbations[:2]
    backed, expected = on_file("r+"), new_screen()
    for data in (backed, expected):
        fitted.add_counterfactuals(treatments[0], adata=data, indices=[7])  # overwritten by what follows
        fitted.add_counterfactuals(treatments, adata=data, indices=indices, batch_size=64)
    keys = [f"counterfactual_{name}" for name in treatments]
    for key in keys:
        assert not isinstance(backed.layers[key], np.ndarray)
    counterfactuals = backed.uns["counterfactuals"]
    backed.file.close()
    again = on_file("r").to_memory()
    for key in keys:
        np.testing.assert_allclose(again.layers[key], expected.layers[key], atol=1e-6)
    assert counterfactuals == expected.uns["counterfactuals"]
    assert {key: dict(entry) for key, entry in again.uns["counterfactuals"].items()} == counterfactuals


def test_layers_of_a_file_for_reading_are_refused(fitted, on_file):
    backed = on_file("r")
    with pytest.raises(ValueError, match=r"reading only.*backed='r\+'.*store=path.*to_memory"):
        fitted.add_counterfactuals("control", adata=backed)
    assert "counterfactuals" not in backed.uns


def test_no_layer_is_left_of_a_failure(fitted, on_file):
    backed = on_file("r+")
    with pytest.raises(ValueError, match="Unknown library"):
        fitted.add_counterfactuals("control", adata=backed, library="other")
    assert "counterfactual_control" not in backed.file["layers"]
    assert "counterfactual_control" not in backed.layers


def test_memory_is_bounded_by_the_batch(new_screen, fit, monkeypatch, tmp_path):
    """Predictions of 6,000 cells x 600 genes are 14 MB; a batch of 60 is 0.14 MB."""
    monkeypatch.setattr(_read, "BLOCK_VALUES", 10_000)  # of what set-up reads at a time
    model = fit(new_screen(n_genes=600), max_epochs=1, propagation="none")
    rows = np.arange(6000) % 240
    obs = model.adata.obs.iloc[rows].set_axis([f"c{i}" for i in range(6000)])
    ad.AnnData(model.adata.X[rows], obs=obs, var=model.adata.var[[]]).write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r+")
    treatment, options = model.treatments.perturbations[0], {"adata": backed, "batch_size": 60}
    calls = {
        "memory": lambda: model.predict(treatment, "all", **options),
        "store": lambda: model.predict(treatment, "all", store=tmp_path / "p.h5ad", **options),
        "layer": lambda: model.add_counterfactuals(treatment, **options),
    }
    peak = {}
    for name, call in calls.items():
        tracemalloc.start()
        call()
        peak[name] = tracemalloc.get_traced_memory()[1] / (4 * 6000 * 600)
        tracemalloc.stop()
    backed.file.close()
    assert peak["memory"] > 1
    assert peak["store"] < 0.4, peak
    assert peak["layer"] < 0.4, peak
