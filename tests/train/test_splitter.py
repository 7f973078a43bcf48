from __future__ import annotations

from types import SimpleNamespace

import mudata
import numpy as np
import pytest
import scvi
import torch
from scvi.data import AnnDataManager

from scgraphvci.data import OutcomeField, SplitField
from scgraphvci.train import SplitByColumn
from scgraphvci.train._splitter import SharedBatches, not_held_out, split_indices


def manage(data, split_key="split", mod_key=None):
    manager = AnnDataManager(
        fields=[SplitField(split_key, mod_key=mod_key), OutcomeField(None, mod_key=mod_key)], setup_method_args={}
    )
    manager.register_fields(data)
    return manager


@pytest.mark.parametrize("in_mudata", [False, True])
def test_the_column_fills_the_three_slots(screen, in_mudata):
    data = mudata.MuData({"rna": screen}) if in_mudata else screen
    splitter = SplitByColumn(manage(data, mod_key="rna" if in_mudata else None), batch_size=32)
    splitter.setup()
    split = screen.obs["split"].to_numpy()
    for found, name in ((splitter.train_idx, "train"), (splitter.val_idx, "test"), (splitter.test_idx, "ood")):
        np.testing.assert_array_equal(found, np.flatnonzero(split == name))
    assert len(splitter.test_idx) > 0


def test_categories_and_their_order_do_not_matter(screen):
    expected = split_indices(manage(screen.copy()))
    screen.obs["split"] = screen.obs["split"].astype("category").cat.reorder_categories(["test", "train", "ood"])
    for found, indices in zip(split_indices(manage(screen)), expected, strict=True):
        np.testing.assert_array_equal(found, indices)


def test_a_column_without_test_or_ood_cells(screen):
    screen.obs["split"] = "train"
    sizes = [len(part) for part in split_indices(manage(screen))]
    assert sizes == [240, 0, 0]
    splitter = SplitByColumn(manage(screen), batch_size=32)
    splitter.setup()
    assert splitter.n_val == 0
    assert not splitter.val_dataloader()


def test_sizes_beside_a_column_raise(screen):
    manager = manage(screen)
    for sizes in ({"train_size": 0.5}, {"validation_size": 0.1}):
        with pytest.raises(ValueError, match="cannot be given together with the split column 'split'"):
            SplitByColumn(manager, **sizes)


class TestRandom:
    def sizes(self, manager, **kwargs):
        return [len(part) for part in split_indices(manager, **kwargs)]

    def test_four_to_one_by_default(self, screen):
        manager = manage(screen, split_key=None)
        train, validation, rest = split_indices(manager)
        assert (len(train), len(validation), len(rest)) == (192, 48, 0)
        np.testing.assert_array_equal(np.sort(np.concatenate([train, validation])), np.arange(240))

    def test_sizes(self, screen):
        manager = manage(screen, split_key=None)
        assert self.sizes(manager, train_size=0.5) == [120, 120, 0]
        assert self.sizes(manager, train_size=0.5, validation_size=0.25) == [120, 60, 60]
        assert self.sizes(manager, train_size=1) == [240, 0, 0]
        assert self.sizes(manager, validation_size=0.1) == [192, 24, 24]
        parts = split_indices(manager, 0.5, 0.25, shuffle=False)
        np.testing.assert_array_equal(np.concatenate(parts), np.arange(240))

    def test_seeded(self, screen, monkeypatch):
        manager = manage(screen, split_key=None)
        parts = []
        for seed in (None, 0, 0, 1):
            monkeypatch.setattr(scvi.settings, "_seed", seed)
            np.random.default_rng().random()
            parts.append(split_indices(manager)[0])
        np.testing.assert_array_equal(parts[0], parts[1])
        np.testing.assert_array_equal(parts[1], parts[2])
        assert not np.array_equal(parts[2], parts[3])

    @pytest.mark.parametrize(
        "sizes",
        [
            {"train_size": 0},
            {"train_size": 1.2},
            {"train_size": 0.8, "validation_size": 0.3},
            {"validation_size": -0.1},
        ],
    )
    def test_impossible_sizes_raise(self, screen, sizes):
        with pytest.raises(ValueError, match="must be fractions"):
            split_indices(manage(screen, split_key=None), **sizes)


def test_indices_of_the_caller_win(screen):
    given = [np.arange(10), np.arange(10, 20), np.arange(20, 240)]
    splitter = SplitByColumn(manage(screen), external_indexing=given)
    splitter.setup()
    np.testing.assert_array_equal(splitter.train_idx, given[0])


class TestOrderOfCells:
    """Of the training cells, in one epoch of a loader."""

    def order(self, screen, epoch=0, n_workers=0, resumed_at=None, **kwargs):
        splitter = SplitByColumn(manage(screen), batch_size=32, num_workers=n_workers, **kwargs)
        splitter.trainer = SimpleNamespace(current_epoch=epoch)
        if resumed_at is not None:
            splitter.load_state_dict({"epoch": resumed_at - 1})
        splitter.setup()
        loader = splitter.train_dataloader()
        batches = list(loader.sampler)
        assert [len(batch) for batch in batches[:-1]] == [32] * (len(batches) - 1)
        order = np.concatenate(batches)
        loaded = np.concatenate([batch["X"].numpy() for batch in loader])
        np.testing.assert_array_equal(loaded, screen.X[splitter.train_idx[order]])
        np.testing.assert_array_equal(np.sort(order), np.arange(len(splitter.train_idx)))
        return order

    def test_seed_and_epoch_decide_and_nothing_else(self, screen, monkeypatch):
        monkeypatch.setattr(scvi.settings, "_seed", 4)
        expected = self.order(screen)
        torch.manual_seed(1234)
        for same in ({}, {"n_workers": 2}, {"seed": 4}):
            np.testing.assert_array_equal(self.order(screen, **same), expected)
        for other in ({"epoch": 1}, {"seed": 5}, {"resumed_at": 1}):
            assert not np.array_equal(self.order(screen, **other), expected)

    def test_a_resumed_training_knows_its_epoch_before_the_trainer_does(self, screen):
        expected = self.order(screen, epoch=3)
        for told in (0, 3):
            np.testing.assert_array_equal(self.order(screen, epoch=told, resumed_at=3), expected)
        np.testing.assert_array_equal(self.order(screen, epoch=5, resumed_at=3), self.order(screen, epoch=5))

    def test_is_kept_by_checkpoints(self, screen):
        splitter = SplitByColumn(manage(screen))
        splitter.trainer = SimpleNamespace(current_epoch=7)
        assert splitter.state_dict() == {"epoch": 7}


class TestHeldOut:
    def test_everything_but_ood(self, screen):
        np.testing.assert_array_equal(not_held_out(manage(screen)), np.flatnonzero(screen.obs["split"] != "ood"))
        np.testing.assert_array_equal(not_held_out(manage(screen, split_key=None)), np.arange(240))

    def test_new_data_without_the_column(self, screen):
        new = screen[:30].copy()
        del new.obs["split"]
        moved = manage(screen).transfer_fields(new)
        np.testing.assert_array_equal(not_held_out(moved), np.arange(30))
        with pytest.raises(KeyError, match="The split column 'split' is not in obs"):
            split_indices(moved)


@pytest.mark.parametrize("n_cells", [61, 48, 25])
def test_processes_share_the_minibatches_of_one(n_cells):
    cells = np.random.default_rng(0).permutation(100)[:n_cells]
    parts = [list(SharedBatches(cells, 24, 2, rank)) for rank in (0, 1)]
    assert [len(SharedBatches(cells, 24, 2, rank)) for rank in (0, 1)] == [len(part) for part in parts]
    merged = [part[k] for k in range(2) for part in parts if k < len(part)]
    np.testing.assert_array_equal(np.concatenate(merged), cells)
    assert [len(batch) for batch in merged[:-1]] == [24] * (len(merged) - 1)


def test_every_process_takes_all_of_too_few_minibatches():
    cells = np.arange(30)
    for rank in range(3):
        np.testing.assert_array_equal(np.concatenate(list(SharedBatches(cells, 24, 3, rank))), cells)
