from __future__ import annotations

import pytest

from scgraphvci.train._schedule import default_epochs, set_validation


@pytest.mark.parametrize(("n_cells", "epochs"), [(100, 200), (4_000, 128), (12_800, 40), (10**6, 20)])
def test_about_four_thousand_steps(n_cells, epochs):
    assert default_epochs(n_cells, batch_size=128) == epochs


@pytest.mark.parametrize(
    ("max_epochs", "early_stopping", "given", "every"),
    [(200, False, {}, 10), (7, False, {}, 1), (200, True, {}, 1), (200, True, {"check_val_every_n_epoch": 3}, 3)],
)
def test_validation(max_epochs, early_stopping, given, every):
    trainer_kwargs = dict(given)
    set_validation(trainer_kwargs, max_epochs, 5, early_stopping=early_stopping)
    assert trainer_kwargs == {"check_val_every_n_epoch": every, "early_stopping_monitor": "validation_loss"}


def test_without_validation_cells():
    trainer_kwargs = {}
    set_validation(trainer_kwargs, 20, 0, early_stopping=False)
    assert trainer_kwargs == {"early_stopping_monitor": "validation_loss"}
    with pytest.raises(ValueError, match="mark some as 'test' in the split column"):
        set_validation({}, 20, 0, early_stopping=True)
