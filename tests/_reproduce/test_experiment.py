"""Reading files, checking them, splits and seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from scgraphvci import grn
from scgraphvci._reproduce import Experiment, Recipe, hold_out_category


@pytest.fixture
def experiment(screen, tmp_path):
    del screen.obs["split"], screen.varp["grn"]
    screen.write_h5ad(tmp_path / "screen.h5ad")
    pd.DataFrame({"source": ["gene0", "gene1"], "target": ["gene2", "gene3"]}).to_csv(
        tmp_path / "net.tsv.gz", sep="\t", index=False
    )
    recipe = Recipe("perturbation", "control", ("cell_type",), hold_out_category({"cell_type": "NK"}, 1))
    return Experiment(recipe, tmp_path / "screen.h5ad", models=("VCI",), n_seeds=2, max_epochs=1)


def test_file_is_read_once_and_split_by_seed(experiment):
    splits, data = [], []
    for split in experiment.splits():
        splits.append(split.adata.obs["split"].to_numpy())
        data.append(split.adata)
        assert split.truth is None
    assert data[0] is data[1]
    assert ((splits[0] == "ood") == (splits[1] == "ood")).all()
    assert not (splits[0] == splits[1]).all()


def test_simulated_screens_differ_by_seed(tiny):
    first, second = (split.adata.X.toarray() for split in tiny.splits())
    assert not np.allclose(first, second)


def test_network_from_a_table(experiment, tmp_path):
    with_network = replace(experiment, network=tmp_path / "net.tsv.gz", models=("GraphVCI",))
    with_network.check()
    split = next(with_network.splits())
    model, seconds = with_network.fit("GraphVCI", split)
    assert model.get_graph()[["source", "target"]].to_numpy().tolist() == [["gene0", "gene2"], ["gene1", "gene3"]]
    assert seconds > 0
    assert len(model.history["train_loss"]) == 1


def test_a_random_network_stands_beside_the_given_one(tiny):
    experiment = replace(tiny, models=("GraphVCI", "GraphVCI-random"), n_seeds=1, max_epochs=1)
    split = next(experiment.splits())
    given, made = (split.adata.varp[key] for key in ("grn", "grn_random"))
    for axis in (0, 1):
        np.testing.assert_array_equal((given != 0).sum(axis=axis), (made != 0).sum(axis=axis))
    assert (given != made).nnz > 0
    model, _ = experiment.fit("GraphVCI-random", split)
    edges, expected = model.get_graph()[["source", "target"]], grn.get_grn(split.adata, "grn_random")
    assert set(map(tuple, edges.to_numpy())) == set(map(tuple, expected[["source", "target"]].to_numpy()))


def test_check_accepts_what_runs(experiment, tiny):
    experiment.check()
    tiny.check()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"models": ("GraphVCI",)}, ValueError, r"\['GraphVCI'\] read a network"),
        ({"models": ("GraphVCI-random",)}, ValueError, r"\['GraphVCI-random'\] read a network"),
        ({"perturbation_key": "drug"}, KeyError, "'drug' not found"),
        ({"control": "DMSO"}, ValueError, "Control 'DMSO' has no cells"),
        ({"covariates": ("line",)}, KeyError, "'line' not found"),
        ({"dose_key": "dose"}, KeyError, "'dose' not found"),
        ({"splits": hold_out_category({"celltype": "NK"}, 1)}, KeyError, "'celltype' not found"),
        ({"splits": hold_out_category({"cell_type": "X"}, 1)}, ValueError, "No cell has 'X'"),
        ({"splits": hold_out_category({"cell_type": "NK"}, 99)}, ValueError, "n_hardest=99"),
    ],
)
def test_check_finds(experiment, change, error, message):
    recipe_change = {key: value for key, value in change.items() if key != "models"}
    changed = replace(experiment, recipe=replace(experiment.recipe, **recipe_change))
    with pytest.raises(error, match=message):
        replace(changed, **{key: value for key, value in change.items() if key == "models"}).check()


def test_check_finds_missing_files(experiment, tmp_path):
    with pytest.raises(FileNotFoundError):
        replace(experiment, data=tmp_path / "none.h5ad").check()
    with pytest.raises(FileNotFoundError, match="none.csv"):
        replace(experiment, network=tmp_path / "none.csv").check()
    (tmp_path / "text.h5ad").write_text("not HDF5")
    with pytest.raises(OSError, match=r"text.h5ad cannot be read as .h5ad.$"):
        replace(experiment, data=tmp_path / "text.h5ad").check()


def test_check_reads_the_network(experiment, tmp_path):
    for frame, error, message in (
        (pd.DataFrame({"from": ["gene0"], "target": ["gene1"]}), KeyError, "source"),
        (pd.DataFrame({"source": ["a"], "target": ["b"]}), ValueError, "gene"),
    ):
        frame.to_csv(tmp_path / "net.csv", index=False)
        with pytest.raises(error, match=message):
            replace(experiment, network=tmp_path / "net.csv").check()
