from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
from scvi.data import AnnDataManager
from scvi.dataloaders import AnnDataLoader

from scgraphvci._constants import KEYS
from scgraphvci.data import ContinuousField, OutcomeField, SizeFactorField, SplitField, StratumField, TreatmentField

TREATMENT_CODE = f"_{KEYS.TREATMENT}"
STRATUM_CODE = f"_{KEYS.STRATUM}"


def treatment_field(**kwargs):
    return TreatmentField("perturbation", "control", combination_sep="+", **kwargs)


def joint_levels(adata, state):
    """Level names of each cell, read back from the registered codes."""
    rows = np.asarray(state["strata"])[adata.obs[STRATUM_CODE]]
    return [
        tuple(names[code] for names, code in zip(state["levels"].values(), row, strict=True)) for row in rows.tolist()
    ]


class TestOutcome:
    @pytest.mark.parametrize("layer", [None, "counts"])
    def test_state_describes_the_values(self, screen, layer):
        state = OutcomeField(layer).register_field(screen)
        values = screen.X if layer is None else screen.layers["counts"].toarray()
        assert state["column_names"] == list(screen.var_names)
        assert (state["n_obs"], state["n_vars"]) == screen.shape
        assert state["integer"] is (layer == "counts")
        assert (state["min"], state["max"]) == (values.min(), values.max())
        assert OutcomeField(layer).get_summary_stats(state) == {"n_vars": 12, "n_cells": 240}

    def test_new_data_must_hold_the_same_genes_in_the_same_order(self, screen):
        field = OutcomeField(None)
        state = field.register_field(screen)
        assert field.transfer_field(state, screen[:5].copy())["n_obs"] == 5
        with pytest.raises(ValueError, match="1 of 12 genes of the model are missing, such as .'gene3'"):
            field.transfer_field(state, screen[:, screen.var_names != "gene3"].copy())
        with pytest.raises(ValueError, match="other genes, or in another order"):
            field.transfer_field(state, screen[:, ::-1].copy())

    def test_bad_input_raises(self, screen):
        with pytest.raises(KeyError, match="Layer 'missing' not found. Layers: .'counts'"):
            OutcomeField("missing").register_field(screen)
        with pytest.raises(ValueError, match="The AnnData is empty"):
            OutcomeField(None).register_field(screen[:0].copy())
        screen.X[3, 4] = np.nan
        with pytest.raises(ValueError, match="X holds NaN or infinite values"):
            OutcomeField(None).register_field(screen)
        screen.layers["counts"].data[7] = np.inf
        with pytest.raises(ValueError, match="layer 'counts' holds NaN or infinite values"):
            OutcomeField("counts").register_field(screen)
        screen.X = None
        with pytest.raises(ValueError, match="`adata.X` is None"):
            OutcomeField(None).register_field(screen)


class TestTreatment:
    def test_codes_point_into_the_design(self, screen):
        state = treatment_field().register_field(screen)
        expected = [[float(m in name.split("+")) for m in ("A", "B")] for name in screen.obs["perturbation"]]
        np.testing.assert_array_equal(state["design"][screen.obs[TREATMENT_CODE]], expected)
        assert state["perturbation_key"] == "perturbation"
        assert treatment_field().get_summary_stats(state) == {"n_perturbations": 2}

    def test_categories_in_another_order_or_unused_change_nothing(self, screen):
        other = screen.copy()
        column = other.obs["perturbation"].cat.add_categories("never given")
        other.obs["perturbation"] = column.cat.reorder_categories(column.cat.categories[::-1])
        first, second = treatment_field().register_field(screen), treatment_field().register_field(other)
        np.testing.assert_array_equal(first["design"], second["design"])
        np.testing.assert_array_equal(screen.obs[TREATMENT_CODE], other.obs[TREATMENT_CODE])
        assert second["perturbations"] == ["A", "B"]

    @pytest.mark.parametrize(
        ("values", "control"), [(np.array([False, True]), "False"), (np.array([0, 1]), "0"), (np.array([0, 1]), 0)]
    )
    @pytest.mark.parametrize("categorical", [False, True])
    def test_boolean_and_integer_levels(self, screen, values, control, categorical):
        given = values[(screen.obs["perturbation"] != "control").to_numpy().astype(int)]
        screen.obs["given"] = pd.Categorical(given) if categorical else given
        state = TreatmentField("given", control).register_field(screen)
        assert state["perturbations"] == [str(values[1])]
        np.testing.assert_array_equal(screen.obs[TREATMENT_CODE], given.astype(int))

    def test_dose_scale_and_default_ignore_held_out_cells(self, screen):
        given = (screen.obs["perturbation"] != "control").to_numpy()
        screen.obs["dose"] = np.where(given, 2.0, 0.0)
        field = treatment_field(dose_key="dose", split_key="split")
        before = field.register_field(screen)
        held_out = (screen.obs["split"] == "ood").to_numpy()
        screen.obs.loc[held_out, "dose"] = 50.0
        after = field.register_field(screen)
        np.testing.assert_array_equal(before["max_dose"], [2, 2])
        np.testing.assert_array_equal(after["max_dose"], [2, 2])
        assert before["default_dose"] == after["default_dose"]
        vectors = after["design"][screen.obs[TREATMENT_CODE]]
        np.testing.assert_allclose(vectors[held_out], [[25.0, 0.0]] * held_out.sum())

    def test_untrained_perturbations_are_listed(self, screen):
        screen.obs.loc[screen.obs["perturbation"].isin(["B", "A+B"]), "split"] = "ood"
        field = treatment_field(split_key="split")
        state = field.register_field(screen)
        assert state["untrained"] == ["B"]
        screen.obs["split"] = "train"  # of new data, which the model was not trained on
        assert field.transfer_field(state, screen)["untrained"] == ["B"]

    def test_new_data_keep_the_saved_codes(self, make_screen):
        field = treatment_field()
        state = field.register_field(make_screen(seed=0))
        new = make_screen(seed=1)[::-1].copy()
        moved = field.transfer_field(state, new)
        np.testing.assert_array_equal(moved["design"], state["design"])
        names = np.array(state["names"])[new.obs[TREATMENT_CODE]]
        assert names.tolist() == new.obs["perturbation"].astype(str).tolist()
        new.obs["perturbation"] = "Z"
        with pytest.raises(ValueError, match="Unknown treatment 'Z'"):
            field.transfer_field(state, new)

    def test_bad_input_raises(self, screen):
        with pytest.raises(KeyError, match="`perturbation_key`: column 'drug' not found in obs. Columns: .'perturb"):
            TreatmentField("drug", "control").register_field(screen)
        with pytest.raises(ValueError, match="Control 'NTC' has no cells.*Levels: .'A', 'A.B', 'B', 'control'"):
            TreatmentField("perturbation", "NTC").register_field(screen)
        with pytest.raises(ValueError, match="holds only the control 'control'"):
            treatment_field().register_field(screen[screen.obs["perturbation"] == "control"].copy())
        screen.obs["dose"] = 0.0
        with pytest.raises(ValueError, match=r"No cell has a dose above 0 in obs\['dose'\]"):
            treatment_field(dose_key="dose").register_field(screen)
        screen.obs.loc[screen.obs_names[3], "perturbation"] = None
        with pytest.raises(ValueError, match=r"obs\['perturbation'\] has 1 missing values"):
            treatment_field().register_field(screen)
        assert TREATMENT_CODE not in screen.obs


class TestStratum:
    def test_strata_are_the_observed_joint_levels(self, screen):
        field = StratumField(["cell_type", "donor"])
        state = field.register_field(screen)
        assert state["levels"] == {"cell_type": ["B cell", "NK", "T cell"], "donor": ["d1", "d2"]}
        expected = list(screen.obs[["cell_type", "donor"]].astype(str).itertuples(index=False, name=None))
        assert joint_levels(screen, state) == expected
        assert len(state["strata"]) == len(set(expected)) == 6
        assert field.get_summary_stats(state) == {"n_strata": 6, "n_categorical_covariates": 2}

    def test_only_observed_strata_are_listed(self, screen):
        kept = screen[(screen.obs["cell_type"] != "NK") | (screen.obs["donor"] == "d1")].copy()
        state = StratumField(["cell_type", "donor"]).register_field(kept)
        assert len(state["strata"]) == 5

    def test_order_of_categories_and_cells_changes_nothing(self, screen):
        field = StratumField(["cell_type", "donor"])
        state = field.register_field(screen)
        other = screen[np.random.default_rng(0).permutation(screen.n_obs)].copy()
        for key in ("cell_type", "donor"):
            column = other.obs[key].cat.add_categories("unused")
            other.obs[key] = column.cat.reorder_categories(column.cat.categories[::-1])
        shuffled = field.register_field(other)
        np.testing.assert_array_equal(shuffled["strata"], state["strata"])
        assert shuffled["levels"] == state["levels"]
        np.testing.assert_array_equal(other.obs[STRATUM_CODE], screen.obs[STRATUM_CODE].loc[other.obs_names])

    def test_without_covariates_all_cells_are_one_stratum(self, screen):
        field = StratumField(None)
        state = field.register_field(screen)
        assert state["strata"].shape == (1, 0)
        assert state["levels"] == {}
        assert (screen.obs[STRATUM_CODE] == 0).all()
        again = field.transfer_field(state, screen[:7].copy())
        assert again["strata"].shape == (1, 0)

    def test_boolean_and_integer_levels(self, screen):
        screen.obs["old"] = (screen.obs["age"] > 40).to_numpy()
        screen.obs["batch"] = pd.Categorical(np.arange(screen.n_obs) % 3 + 9)
        state = StratumField(["old", "batch"]).register_field(screen)
        assert state["levels"] == {"old": ["False", "True"], "batch": ["10", "11", "9"]}
        expected = list(screen.obs[["old", "batch"]].astype(str).itertuples(index=False, name=None))
        assert joint_levels(screen, state) == expected

    def test_new_data_are_coded_by_name_and_new_strata_appended(self, screen):
        known = screen[(screen.obs["cell_type"] != "NK") | (screen.obs["donor"] == "d1")].copy()
        field = StratumField(["cell_type", "donor"])
        state = field.register_field(known)
        new = screen[screen.obs["cell_type"].isin(["NK", "T cell"])].copy()
        moved = field.transfer_field(state, new)
        np.testing.assert_array_equal(moved["strata"][:5], state["strata"])
        np.testing.assert_array_equal(moved["strata"][5:], [[1, 1]])  # NK of donor d2
        expected = list(new.obs[["cell_type", "donor"]].astype(str).itertuples(index=False, name=None))
        assert joint_levels(new, moved) == expected

    def test_bad_input_raises(self, screen):
        field = StratumField(["cell_type"])
        state = field.register_field(screen)
        new = screen.copy()
        new.obs["cell_type"] = "monocyte"
        with pytest.raises(ValueError, match=r"Unknown levels \['monocyte'\] in obs\['cell_type'\]. The model knows"):
            field.transfer_field(state, new)
        new.obs["cell_type"] = np.nan
        with pytest.raises(ValueError, match=r"`categorical_covariate_keys`: obs\['cell_type'\] has 240 missing"):
            field.register_field(new)
        with pytest.raises(KeyError, match="column 'tissue' not found"):
            StratumField(["tissue"]).register_field(screen)

    @pytest.mark.parametrize(
        ("values", "refused"),
        [
            (np.linspace(0, 1, 240), True),
            (np.arange(240) % 25, True),  # 9.6 cells for each
            (np.arange(240) % 24, False),  # 10
            (np.arange(240) % 20 / 7, False),
            (np.arange(240) % 2 == 0, False),
            (np.arange(240).astype(str), False),
            (pd.Categorical(np.arange(240)), False),
        ],
    )
    def test_a_measured_covariate_is_no_category(self, screen, values, refused):
        screen.obs["depth"] = values
        field = StratumField(["cell_type", "depth"])
        if not refused:
            assert len(field.register_field(screen)["levels"]["depth"]) == len(set(values))
            return
        before = screen.obs.copy()
        message = r"obs\['depth'\] holds \d+ different numbers in 240 .*`continuous_covariate_keys`.*pd.cut.*astype"
        with pytest.raises(ValueError, match=message):
            field.register_field(screen)
        pd.testing.assert_frame_equal(screen.obs, before)


class TestContinuous:
    def test_standardised_by_training_cells(self, screen):
        screen.obs["depth"] = 3
        field = ContinuousField(["age", "depth"], "split")
        state = field.register_field(screen)
        written = screen.obsm[f"_{KEYS.CONTINUOUS}"]
        train = (screen.obs["split"] == "train").to_numpy()
        age = screen.obs["age"].to_numpy()
        np.testing.assert_allclose(written[:, 0], (age - age[train].mean()) / age[train].std(), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(written[:, 1], 0)  # constant: nothing to divide by
        assert written.dtype == np.float32
        assert field.get_summary_stats(state) == {"n_continuous_covariates": 2}

    def test_held_out_cells_are_invisible(self, screen):
        before = ContinuousField(["age"], "split").register_field(screen)
        screen.obs.loc[screen.obs["split"] != "train", "age"] = 1e6
        after = ContinuousField(["age"], "split").register_field(screen)
        np.testing.assert_array_equal(before["mean"], after["mean"])
        np.testing.assert_array_equal(before["sd"], after["sd"])

    def test_new_data_use_the_saved_moments(self, screen):
        field = ContinuousField(["age"], "split")
        state = field.register_field(screen)
        new = screen[:10].copy()
        new.obs["age"] = 50.0
        del new.obs["split"]
        field.transfer_field(state, new)
        expected = (50 - state["mean"][0]) / state["sd"][0]
        np.testing.assert_allclose(new.obsm[f"_{KEYS.CONTINUOUS}"], expected, rtol=1e-6)

    def test_bad_input_raises(self, screen):
        with pytest.raises(TypeError, match=r"obs\['donor'\] is not numeric"):
            ContinuousField(["donor"]).register_field(screen)
        screen.obs["age"] = screen.obs["age"].where(screen.obs["age"] < 50, np.inf)
        with pytest.raises(ValueError, match=r"obs\['age'\] holds \d+ infinite values"):
            ContinuousField(["age"]).register_field(screen)
        assert ContinuousField(None).is_empty
        assert ContinuousField([]).is_empty


class TestSizeFactor:
    @pytest.mark.parametrize("bad", [0.0, -1.0])
    def test_size_factors_must_be_positive(self, screen, bad):
        screen.obs["size"] = 1.0
        assert SizeFactorField("size").register_field(screen) == {}
        screen.obs.loc[screen.obs_names[0], "size"] = bad
        with pytest.raises(ValueError, match=rf"size factors of {bad}; all must be above 0"):
            SizeFactorField("size").register_field(screen)
        assert SizeFactorField(None).is_empty


class TestSplit:
    def test_only_the_three_names_are_allowed(self, screen):
        assert SplitField("split").register_field(screen) == {"split_key": "split"}
        screen.obs.loc[screen.obs["split"] == "ood", "split"] = "validation"
        with pytest.raises(ValueError, match=r"holds \['validation'\]; only \['train', 'test', 'ood'\] are allowed"):
            SplitField("split").register_field(screen)
        screen.obs["split"] = "test"
        with pytest.raises(ValueError, match="has no 'train' cells"):
            SplitField("split").register_field(screen)
        screen.obs["split"] = np.nan
        with pytest.raises(ValueError, match="has 240 missing values"):
            SplitField("split").register_field(screen)

    def test_new_data_need_no_split_but_a_valid_one_if_any(self, screen):
        field = SplitField("split")
        state = field.register_field(screen)
        new = screen.copy()
        new.obs["split"] = "elsewhere"
        with pytest.raises(ValueError, match="elsewhere"):
            field.transfer_field(state, new)
        del new.obs["split"]
        assert field.transfer_field(state, new) == {"split_key": "split"}


def all_fields(mod_key=None):
    return [
        SplitField("split", mod_key=mod_key),
        OutcomeField("counts", mod_key=mod_key),
        SizeFactorField("size", mod_key=mod_key),
        ContinuousField(["age"], "split", mod_key=mod_key),
        StratumField(["cell_type", "donor"], mod_key=mod_key),
        treatment_field(split_key="split", mod_key=mod_key),
    ]


def minibatches(data, fields):
    manager = AnnDataManager(fields=fields, setup_method_args={})
    manager.register_fields(data)
    batches = list(AnnDataLoader(manager, batch_size=100, shuffle=False))
    joined = {key: np.concatenate([np.asarray(batch[key]) for batch in batches]) for key in batches[0]}
    return manager, joined


def test_minibatches_hold_what_was_registered(screen):
    screen.obs["size"] = np.linspace(1, 2, screen.n_obs)
    manager, batch = minibatches(screen, all_fields())
    assert set(batch) == {KEYS.OUTCOME, KEYS.SIZE_FACTOR, KEYS.CONTINUOUS, KEYS.STRATUM, KEYS.TREATMENT}
    np.testing.assert_array_equal(batch[KEYS.OUTCOME], screen.layers["counts"].toarray())
    np.testing.assert_allclose(batch[KEYS.SIZE_FACTOR].ravel(), screen.obs["size"], rtol=1e-6)
    np.testing.assert_array_equal(batch[KEYS.CONTINUOUS], screen.obsm[f"_{KEYS.CONTINUOUS}"])
    np.testing.assert_array_equal(batch[KEYS.STRATUM].ravel(), screen.obs[STRATUM_CODE])
    np.testing.assert_array_equal(batch[KEYS.TREATMENT].ravel(), screen.obs[TREATMENT_CODE])
    assert manager.get_state_registry(KEYS.SPLIT)["split_key"] == "split"


def test_mudata_gives_the_same_minibatches(screen):
    screen.obs["size"] = np.linspace(1, 2, screen.n_obs)
    protein = screen[:, :3].copy()
    protein.var_names = ["p1", "p2", "p3"]
    data = mudata.MuData({"rna": screen.copy(), "protein": protein})
    _, expected = minibatches(screen, all_fields())
    manager, batch = minibatches(data, all_fields("rna"))
    assert set(batch) == set(expected)
    for key, values in expected.items():
        np.testing.assert_array_equal(batch[key], values)
    assert list(manager.get_state_registry(KEYS.OUTCOME)["column_names"]) == list(screen.var_names)
    assert TREATMENT_CODE in data["rna"].obs
    assert TREATMENT_CODE not in data["protein"].obs


def test_kind_of_data_and_modality_are_checked(screen):
    data = mudata.MuData({"rna": screen})
    with pytest.raises(TypeError, match="got MuData. For MuData use `setup_mudata`"):
        treatment_field().register_field(data)
    with pytest.raises(TypeError, match="got an AnnData. For AnnData use `setup_anndata`"):
        treatment_field(mod_key="rna").register_field(screen)
    with pytest.raises(KeyError, match="Modality 'atac' not found. Modalities: .'rna'"):
        treatment_field(mod_key="atac").register_field(data)
