"""The same numbers from loader workers, from other processes, from forks and from threads."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import anndata as ad
import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning", "ignore:.*worker:UserWarning")


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
def test_same_bits_from_one_loader_worker_and_from_several(new_screen, fit, tmp_path, backed):
    found = []
    for n_workers in (1, 3):
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
    assert_equal_bits(found[1], found[0])


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
