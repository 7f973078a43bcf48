"""How long to train, and when to validate."""

from __future__ import annotations

from typing import Any

import numpy as np

N_STEPS = 4_000
EPOCHS = 20, 200  # fewest and most
N_VALIDATIONS = 20


def default_epochs(n_cells: int, batch_size: int) -> int:
    """Return the epochs that make about 4,000 steps, between 20 and 200."""
    return int(np.clip(N_STEPS * batch_size / n_cells, *EPOCHS))


def set_validation(trainer_kwargs: dict[str, Any], max_epochs: int, n_validation: int, *, early_stopping: bool) -> None:
    """Validate about twenty times, or every epoch for early stopping, unless the caller said otherwise.

    Raises
    ------
    ValueError
        If training is to stop by validation cells and there are none.
    """
    if n_validation:
        every = 1 if early_stopping else max(1, max_epochs // N_VALIDATIONS)
        trainer_kwargs.setdefault("check_val_every_n_epoch", every)
    elif early_stopping:
        msg = "`early_stopping` needs validation cells: mark some as 'test' in the split column, or leave it out."
        raise ValueError(msg)
    trainer_kwargs.setdefault("early_stopping_monitor", "validation_loss")
