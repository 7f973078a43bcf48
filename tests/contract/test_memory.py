"""A model and its data go when nobody needs them."""

from __future__ import annotations

import gc
import weakref


def test_model_and_data_are_collectable_after_deregistration(new_screen, fit, tmp_path):
    adata = new_screen()
    model = fit(adata, max_epochs=1)
    model.predict("control")
    model.marginal_effect()
    model.save(tmp_path / "m")
    gone = [weakref.ref(adata), weakref.ref(model), weakref.ref(model.module)]
    model.deregister_manager(adata)
    del adata, model
    gc.collect()
    assert [reference() for reference in gone] == [None, None, None]


def test_training_leaves_no_moments_behind(fitted):
    """Tables of strata x treatments x genes belong to the training plan."""
    names = {*vars(fitted), *vars(fitted.module), *dict(fitted.module.named_buffers())}
    assert not [name for name in names if "moments" in name or name.startswith("target_")]
