"""Models come back as they were; files from strangers, damaged files and interrupted saves do no harm."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from mudata import MuData
from safetensors import safe_open
from safetensors.torch import save_file
from scvi.data import AnnDataManager, fields

from scgraphvci import _archive
from scgraphvci.model._saving import SafeSavingMixin

FILE = "model.safetensors"


class SafeSCVI(SafeSavingMixin, scvi.model.SCVI):
    """SCVI, saved without pickle, for AnnData and for one modality of a MuData."""

    @classmethod
    def setup_mudata(cls, mdata, modality="rna", size_factor_key=None, **kwargs):
        setup_method_args = cls._get_setup_method_args(**locals())
        manager = AnnDataManager(
            fields=[
                fields.MuDataLayerField("X", None, mod_key=modality),
                fields.MuDataCategoricalObsField("batch", None, mod_key=modality),
                fields.MuDataCategoricalObsField("labels", None, mod_key=modality),
                fields.MuDataCategoricalJointObsField("extra_categorical_covs", None, mod_key=modality),
            ],
            setup_method_args=setup_method_args,
        )
        manager.register_fields(mdata, **kwargs)
        cls.register_manager(manager)


class OtherSCVI(SafeSCVI):
    pass


def make_data():
    return scvi.data.synthetic_iid(batch_size=30, n_genes=12)


@pytest.fixture(scope="module")
def adata():
    return make_data()


@pytest.fixture(scope="module")
def model(adata):
    SafeSCVI.setup_anndata(adata, batch_key="batch", labels_key="labels")
    model = SafeSCVI(adata, n_latent=3, n_hidden=8, dropout_rate=0.25)
    model.train(max_epochs=2, check_val_every_n_epoch=1, enable_progress_bar=False, logger=None)
    model.notes_ = {"doses": (0.1, float("nan")), 3: {"x"}, "table": pd.DataFrame({"a": [1, 2]})}
    return model


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "saved")
    return tmp_path / "saved"


def second_model(adata):
    SafeSCVI.setup_anndata(adata, batch_key="batch", labels_key="labels")
    model = SafeSCVI(adata, n_latent=3, n_hidden=8)
    model.is_trained_ = True
    model.module.eval()
    return model


def latent(model, adata=None):
    return model.get_latent_representation(adata)


def forge(path: Path, edit) -> None:
    """Rewrite the JSON of a saved model as an attacker would, checksum included."""
    with safe_open(path, framework="pt") as file:
        text = file.metadata()["scgraphvci"]
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    contents = json.loads(text)
    edit(contents)
    archive = _archive.Archive(json.dumps(contents), tensors)
    save_file(tensors, path, metadata={"scgraphvci": archive.text, "sha256": _archive._checksum(archive)})


class Payload:
    """Touches a file when unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


# --- round trips ---


def test_round_trip_with_data(model, saved, adata):
    loaded = SafeSCVI.load(saved, adata.copy())
    np.testing.assert_array_equal(latent(loaded), latent(model))
    for name, weight in model.module.state_dict().items():
        assert torch.equal(loaded.module.state_dict()[name], weight), name
    assert loaded.init_params_ == model.init_params_
    assert loaded.init_params_["non_kwargs"]["dropout_rate"] == 0.25
    assert loaded.is_trained
    assert not loaded.module.training
    assert set(loaded.history) == set(model.history)
    assert "elbo_validation" in loaded.history
    for name, frame in model.history.items():
        pd.testing.assert_frame_equal(loaded.history[name], frame, check_index_type="equiv")
    for name in ("train_indices_", "validation_indices_", "test_indices_"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(model, name))
    assert loaded.notes_["doses"][0] == 0.1
    assert loaded.notes_[3] == {"x"}
    pd.testing.assert_frame_equal(loaded.notes_["table"], model.notes_["table"])


def test_only_one_file_is_written(saved):
    assert os.listdir(saved) == [FILE]


def test_registry_round_trips(model, saved, capsys):
    registry = SafeSCVI.load_registry(saved)
    for key, field in model.registry["field_registries"].items():
        found = registry["field_registries"][key]
        assert found["data_registry"] == field["data_registry"]
        assert found["summary_stats"] == field["summary_stats"]
        for name, value in field["state_registry"].items():
            np.testing.assert_array_equal(found["state_registry"][name], value)
    assert registry["setup_args"] == model.registry["setup_args"]
    SafeSCVI.view_setup_args(saved)
    assert "SafeSCVI.setup_anndata" in capsys.readouterr().out


def test_load_without_data_then_use_new_data(model, saved, adata, tmp_path):
    loaded = SafeSCVI.load(saved, adata=False)
    assert loaded.adata is None
    assert list(loaded.get_var_names()) == list(adata.var_names)
    np.testing.assert_array_equal(latent(loaded, adata.copy()), latent(model))
    loaded.save(tmp_path / "again")
    np.testing.assert_array_equal(latent(SafeSCVI.load(tmp_path / "again", adata.copy())), latent(model))


def test_categories_in_another_order_keep_their_codes(model, saved, adata):
    query = adata.copy()
    query.obs["batch"] = query.obs["batch"].cat.reorder_categories(query.obs["batch"].cat.categories[::-1])
    np.testing.assert_array_equal(latent(SafeSCVI.load(saved, query)), latent(model))


def test_saved_data_are_found(model, tmp_path):
    model.save(tmp_path / "m", prefix="p_", save_anndata=True, compression="gzip")
    assert sorted(os.listdir(tmp_path / "m")) == ["p_adata.h5ad", "p_model.safetensors"]
    loaded = SafeSCVI.load(tmp_path / "m", prefix="p_")
    np.testing.assert_array_equal(latent(loaded), latent(model))


def test_without_saved_data_it_loads_without_and_warns(saved):
    with pytest.warns(UserWarning, match="loaded without data"):
        assert SafeSCVI.load(saved).adata is None


def test_other_gene_names_warn(saved, adata):
    query = adata.copy()
    query.var_names = [f"other_{i}" for i in range(query.n_vars)]
    with pytest.warns(UserWarning, match="var_names"):
        SafeSCVI.load(saved, query)


def test_backed_data_stay_where_they_are(tmp_path):
    import anndata

    make_data().write_h5ad(tmp_path / "backed.h5ad")
    backed = anndata.read_h5ad(tmp_path / "backed.h5ad", backed="r")
    model = second_model(backed)
    model.save(tmp_path / "m", save_anndata=True)
    assert Path(backed.filename) == tmp_path / "backed.h5ad"
    np.testing.assert_array_equal(latent(SafeSCVI.load(tmp_path / "m")), latent(model))
    backed.file.close()


def test_mudata_round_trip(tmp_path):
    rna, protein = make_data(), make_data()[:, :4].copy()
    protein.var_names = [f"protein_{i}" for i in range(4)]
    mdata = MuData({"rna": rna, "protein": protein})
    SafeSCVI.setup_mudata(mdata)
    model = SafeSCVI(mdata, n_latent=3, n_hidden=8)
    model.is_trained_ = True
    model.module.eval()
    model.save(tmp_path / "m", save_anndata=True)
    assert sorted(os.listdir(tmp_path / "m")) == ["mdata.h5mu", FILE]
    np.testing.assert_array_equal(latent(SafeSCVI.load(tmp_path / "m")), latent(model))
    without = SafeSCVI.load(tmp_path / "m", adata=False)
    assert list(without.get_var_names()["protein"]) == list(protein.var_names)
    without.save(tmp_path / "again")
    again = SafeSCVI.load(tmp_path / "again", mdata)
    np.testing.assert_array_equal(latent(again), latent(model))


def test_tied_weights_are_saved(adata, tmp_path):
    model = second_model(adata)
    model.module.alias = model.module.px_r
    model.save(tmp_path / "m")
    _, weights = _archive.read(tmp_path / "m" / FILE)
    assert torch.equal(weights["alias"], model.module.px_r)


# --- overwriting, pickle ---


def test_existing_directory_needs_overwrite(model, saved):
    with pytest.raises(ValueError, match="already exists.*overwrite=True"):
        model.save(saved)
    model.save(saved, overwrite=True)


def test_legacy_round_trip_and_replacement(model, saved, adata):
    model.save(saved, overwrite=True, legacy=True)
    assert os.listdir(saved) == ["model.pt"]
    np.testing.assert_array_equal(latent(SafeSCVI.load(saved, adata.copy(), legacy=True)), latent(model))
    model.save(saved, overwrite=True)
    assert os.listdir(saved) == [FILE]


def test_saving_data_of_a_model_without_data_raises(saved, tmp_path):
    with pytest.raises(ValueError, match="nothing to write"):
        SafeSCVI.load(saved, adata=False).save(tmp_path / "m", save_anndata=True)


def test_unknown_attribute_is_named_and_nothing_written(adata, tmp_path):
    model = second_model(adata)
    model.callback_ = {"on_end": [print]}
    with pytest.raises(TypeError, match=r"attributes\['callback_'\]\['on_end'\]\[0\]"):
        model.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


# --- wrong files ---


def test_missing_file_names_the_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"p_model\.safetensors"):
        SafeSCVI.load(tmp_path, prefix="p_")


def test_pickles_are_never_opened(tmp_path, capsys):
    marker = tmp_path / "executed"
    for name in ("model.pt", "attr.pkl", FILE):
        (tmp_path / name).write_bytes(pickle.dumps(Payload(marker)))
    attempts = [SafeSCVI.load, SafeSCVI.load_registry, SafeSCVI.view_setup_args]
    for attempt in attempts:
        with pytest.raises(ValueError, match=f"{FILE} is not a readable model file"):
            attempt(tmp_path)
    (tmp_path / FILE).unlink()
    for attempt in attempts:
        with pytest.raises(FileNotFoundError, match="legacy=True"):
            attempt(tmp_path)
    torch.save(Payload(marker), tmp_path / FILE)
    with pytest.raises(ValueError, match="not a readable model file"):
        SafeSCVI.load(tmp_path)
    assert not marker.exists()
    pickle.loads((tmp_path / "model.pt").read_bytes())
    assert marker.exists()  # so the payload would have worked


def test_other_class_is_refused(saved, adata):
    with pytest.raises(ValueError, match=r"holds a SafeSCVI, not a OtherSCVI.*SafeSCVI\.load"):
        OtherSCVI.load(saved, adata.copy())
    loaded = OtherSCVI.load(saved, adata.copy(), allowed_classes_names_list=["SafeSCVI"])
    assert isinstance(loaded, OtherSCVI)


def test_newer_format_is_refused(saved):
    forge(saved / FILE, lambda contents: contents.update(format_version=99))
    with pytest.raises(ValueError, match="format version 99.*Update scgraphvci"):
        SafeSCVI.load(saved, adata=False)


def test_other_safetensors_file_is_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / FILE)
    with pytest.raises(ValueError, match="not saved by a model"):
        SafeSCVI.load(tmp_path)


def test_every_truncation_is_noticed(saved):
    whole = (saved / FILE).read_bytes()
    for length in [0, 1, 7, 8, 9, *np.linspace(10, len(whole) - 1, 40).astype(int)]:
        (saved / FILE).write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"{FILE} is not a readable model file"):
            SafeSCVI.load(saved, adata=False)


def test_every_flipped_byte_is_noticed(saved):
    whole = bytearray((saved / FILE).read_bytes())
    for place in np.linspace(0, len(whole) - 1, 60).astype(int):
        damaged = whole.copy()
        damaged[place] ^= 0x15
        (saved / FILE).write_bytes(damaged)
        with pytest.raises(ValueError, match=FILE):
            SafeSCVI.load(saved, adata=False)


def set_registry(key, value):
    return lambda contents: contents["attributes"]["registry_"].update({key: value})


def set_attribute(name, value):
    return lambda contents: contents["attributes"].update({name: value})


@pytest.mark.parametrize(
    "edit",
    [
        set_registry("setup_method_name", "load"),
        set_registry("setup_method_name", "convert_legacy_save"),
        set_registry("setup_args", None),
        set_attribute("__class__", "x"),
        set_attribute("__dict_", "x"),
        set_attribute("train", "x"),
        set_attribute("module._", "x"),
        set_attribute("x_", {"__type__": "builtins.eval", "items": ["1"]}),
        set_attribute("x_", {"__type__": "array", "tensor": "../../../etc/passwd"}),
        lambda contents: contents["attributes"].pop("registry_"),
        lambda contents: contents["attributes"].pop("init_params_"),
        lambda contents: contents.pop("attributes"),
        lambda contents: contents.pop("class_name"),
        lambda contents: contents.pop("format_version"),
        lambda contents: contents.update(format_version="1"),
    ],
)
def test_forged_contents_are_refused(saved, adata, edit):
    forge(saved / FILE, edit)
    with pytest.raises(ValueError, match=f"{FILE}|was set up by"):
        SafeSCVI.load(saved, adata.copy())


def test_deeply_nested_json_is_refused(saved):
    with safe_open(saved / FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    archive = _archive.Archive("[" * 100_000 + "]" * 100_000, tensors)
    _archive.write(archive, saved / FILE)
    with pytest.raises(ValueError, match=FILE):
        SafeSCVI.load(saved, adata=False)


# --- interrupted saves ---


def fail(*args, **kwargs):
    msg = "killed"
    raise OSError(msg)


def half_written(tensors, path, metadata):
    Path(path).write_bytes(b"half")
    fail()


@pytest.mark.parametrize("target", ["os.replace", "os.fsync", "scgraphvci._archive.save_file", "anndata.io.write_h5ad"])
def test_interrupted_save_keeps_the_old_model(model, adata, tmp_path, monkeypatch, target):
    directory = tmp_path / "m"
    model.save(directory, save_anndata=True)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    expected = latent(model)
    other = second_model(adata)
    with monkeypatch.context() as patch:
        patch.setattr(target, half_written if "save_file" in target else fail)
        with pytest.raises(OSError, match="killed"):
            other.save(directory, overwrite=True, save_anndata=True)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    np.testing.assert_array_equal(latent(SafeSCVI.load(directory)), expected)


def test_leftovers_of_a_killed_process_do_not_matter(model, saved, adata):
    shutil.copy(saved / FILE, saved / f".0123.{FILE}")
    (saved / f".4567.{FILE}").write_bytes(b"half")
    np.testing.assert_array_equal(latent(SafeSCVI.load(saved, adata.copy())), latent(model))


def test_a_header_too_large_to_read_is_never_written(adata, saved):
    before = (saved / FILE).read_bytes()
    other = second_model(adata)
    other.notes_ = "x" * 90_000_001
    with pytest.raises(ValueError, match="too large to save"):
        other.save(saved, overwrite=True)
    assert (saved / FILE).read_bytes() == before
