"""The same numbers from loader workers, from other processes, from forks and from threads."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import anndata as ad
import numpy as np
import pytest
import scvi
from lightning.pytorch.callbacks import ModelCheckpoint

import scgraphvci as sgv

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*fork:DeprecationWarning", "ignore:.*worker:UserWarning", "ignore:The latent has"
)


def weights(model):
    return {name: value.numpy().copy() for name, value in model.module.state_dict().items()}


def assert_equal_bits(found, expected):
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def results(model):
    """Every kind of question, by name."""
    treatments = model.treatments.perturbations
    return {
        "latent": model.get_latent_representation(),
        "graph": model.get_graph()["weight"].to_numpy(),
        **{name: model.predict(name, source="all").X for name in treatments},
        "effects": model.marginal_effect(treatments).estimate,
    }


@pytest.mark.parametrize("backed", [False, True], ids=["in memory", "backed"])
def test_same_bits_for_any_number_of_loader_workers(new_screen, fit, tmp_path, backed):
    found = []
    for n_workers in (0, 1, 3):
        adata = new_screen()
        if backed:
            adata.write_h5ad(tmp_path / f"{n_workers}.h5ad")
            adata = ad.read_h5ad(tmp_path / f"{n_workers}.h5ad", backed="r")
        model = fit(
            adata, train={"datasplitter_kwargs": {"num_workers": n_workers}, "batch_size": 32}, dropout_rate=0.1
        )
        found.append(weights(model))
        if backed:
            adata.file.close()
    for one in found[1:]:
        assert_equal_bits(one, found[0])


@pytest.mark.parametrize("n_workers", [0, 2])
@pytest.mark.parametrize("make", [sgv.GraphVCI, sgv.baselines.AE], ids=["GraphVCI", "AE"])
def test_a_resumed_training_ends_as_an_undisturbed_one(new_screen, quiet, tmp_path, monkeypatch, make, n_workers):
    monkeypatch.setattr(scvi.settings, "dl_num_workers", n_workers)
    monkeypatch.setattr(scvi.settings, "logging_dir", tmp_path)

    def train(folder, ckpt_path=None):
        adata = new_screen()
        make.setup_anndata(adata, categorical_covariate_keys=["cell_type"], split_key="split")
        scvi.settings.seed = 0
        model = make(adata, n_hidden=8, n_latent=2, dropout_rate=0.1)
        model.train(
            max_epochs=4,
            batch_size=32,
            callbacks=[ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1, every_n_epochs=1)],
            enable_checkpointing=True,
            ckpt_path=ckpt_path,
            **quiet,
        )
        return weights(model)

    expected = train(tmp_path / "undisturbed")
    assert_equal_bits(train(tmp_path / "resumed", str(tmp_path / "undisturbed" / "epoch=1.ckpt")), expected)


def test_a_forked_process_says_the_same(fitted):
    expected = results(fitted)
    in_pipe, out_pipe = os.pipe()
    child = os.fork()
    if not child:
        try:
            with os.fdopen(out_pipe, "wb") as pipe:
                pickle.dump(results(fitted), pipe)
        finally:
            os._exit(0)
    os.close(out_pipe)
    with os.fdopen(in_pipe, "rb") as pipe:
        found = pickle.load(pipe)
    assert os.waitpid(child, 0)[1] == 0
    assert_equal_bits(found, expected)
    assert_equal_bits(results(fitted), expected)  # and the parent is as it was


def test_threads_that_ask_at_once_get_the_same(fitted):
    expected = results(fitted)
    with ThreadPoolExecutor(4) as threads:
        for found in [one.result() for one in [threads.submit(results, fitted) for _ in range(8)]]:
            assert_equal_bits(found, expected)


def test_threads_that_save_and_load_at_once_do_not_mix(fitted, fit, new_screen, tmp_path):
    """Two models, saved by several threads into one place: whoever loads finds one of them, whole."""
    other = fit(new_screen(), max_epochs=3)
    known = [weights(fitted), weights(other)]
    fitted.save(tmp_path / "m")

    def save(number):
        (fitted, other)[number % 2].save(tmp_path / "m", overwrite=True)

    def load(_):
        return weights(type(fitted).load(tmp_path / "m", adata=False))

    with ThreadPoolExecutor(4) as threads:
        saves, loads = [threads.submit(save, i) for i in range(12)], [threads.submit(load, i) for i in range(12)]
        for one in saves:
            one.result()
        for one in loads:
            assert any(
                all(np.array_equal(one.result()[name], values) for name, values in expected.items())
                for expected in known
            )
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["model.safetensors"]
