"""Saved models survive full disks, killed processes, other folders and other models."""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import scgraphvci as sgv

FILE = "model.safetensors"


def latent(model, adata=None):
    return model.get_latent_representation(adata)


def in_child(action):
    """Run an action in a forked process; return its number."""
    child = os.fork()
    if child:
        return child
    try:
        action()
    finally:
        os._exit(0)


@pytest.fixture(scope="module")
def other(fit, new_screen):
    """Another model of the same data, trained for longer."""
    return fit(new_screen(), max_epochs=3)


def test_from_another_working_directory(fitted, new_screen, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fitted.save("here", save_anndata=True)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for path in (tmp_path / "here", "../here", Path("..") / "here"):
        np.testing.assert_array_equal(latent(sgv.GraphVCI.load(path)), latent(fitted))
        assert "GraphVCI" in sgv.GraphVCI.load_registry(path)["model_name"]


def test_from_a_read_only_directory(fitted, new_screen, tmp_path):
    fitted.save(tmp_path / "m", save_anndata=True)
    for path in [*(tmp_path / "m").iterdir(), tmp_path / "m"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()}
    np.testing.assert_array_equal(latent(sgv.GraphVCI.load(tmp_path / "m")), latent(fitted))
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "m").iterdir()} == before
    (tmp_path / "m").chmod(0o755)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_into_a_read_only_directory(fitted, tmp_path):
    fitted.save(tmp_path / "m")
    before = (tmp_path / "m" / FILE).read_bytes()
    (tmp_path / "m").chmod(0o555)
    with pytest.raises(PermissionError, match=r"m"):
        fitted.save(tmp_path / "m", overwrite=True)
    assert (tmp_path / "m" / FILE).read_bytes() == before
    (tmp_path / "m").chmod(0o755)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_full_disk_keeps_the_old_model(fitted, other, tmp_path, share):
    """No file of the process may grow beyond a share of the model's size, so that the system itself refuses."""
    directory = tmp_path / "m"
    fitted.save(directory)
    before = (directory / FILE).read_bytes()
    in_pipe, out_pipe = os.pipe()

    def save():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * len(before)), resource.RLIM_INFINITY))
        try:
            other.save(directory, overwrite=True)
        except OSError as error:
            os.write(out_pipe, f"OSError {error}".encode())
        except BaseException as error:  # noqa: BLE001, the test names it
            os.write(out_pipe, f"{type(error)} {error}".encode())
        else:
            os.write(out_pipe, b"saved")

    _, status = os.waitpid(in_child(save), 0)
    os.close(out_pipe)
    with os.fdopen(in_pipe) as pipe:
        said = pipe.read()
    assert status == 0
    assert said.startswith("OSError"), said
    assert FILE in said
    assert (directory / FILE).read_bytes() == before
    assert [path.name for path in directory.iterdir()] == [FILE]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_twenty_kills_in_the_middle_of_saves(fitted, other, new_screen, tmp_path):
    directory, adata = tmp_path / "m", new_screen()
    fitted.save(directory, save_anndata=True)
    expected = [latent(fitted), latent(other)]

    def save_forever():
        while True:
            for model in (other, fitted):
                model.save(directory, overwrite=True, save_anndata=True)

    waits, found = random.Random(0), []
    for _ in range(20):
        child = in_child(save_forever)
        time.sleep(waits.uniform(0.005, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        loaded = latent(sgv.GraphVCI.load(directory))
        np.testing.assert_array_equal(loaded, latent(sgv.GraphVCI.load(directory, adata.copy())))
        found.append([np.array_equal(loaded, one) for one in expected].index(True))
    assert len(found) == 20
    assert any(path.name.startswith(".") for path in directory.iterdir())  # so some kills hit a save


def test_models_in_one_process_do_not_touch_each_other(new_screen, fit, quiet):
    one = fit(new_screen(), max_epochs=1)
    latents, predicted = latent(one), one.predict("control").X
    registry = one.registry
    two = fit(
        new_screen(n_cells=200, n_genes=20, seed=1), max_epochs=1, setup={"grn_key": None, "layer": "counts"},
        likelihood="nb",
    )  # fmt: skip
    second = latent(two)
    np.testing.assert_array_equal(latent(one), latents)
    np.testing.assert_array_equal(one.predict("control").X, predicted)
    assert one.registry is registry
    assert one.summary_stats["n_vars"] == 40
    assert two.summary_stats["n_vars"] == 20
    one.train(max_epochs=1, **quiet)
    np.testing.assert_array_equal(latent(two), second)
    two.deregister_manager(two.adata)
    assert np.isfinite(latent(one)).all()
