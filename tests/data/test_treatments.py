from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.data import TreatmentTable
from scgraphvci.data._treatments import (
    build_treatment_table,
    extend_treatment_table,
    member_doses,
    parse_dose,
    split_combination,
)

NAMES = ["control", "A", "A", "B", "A+B", "A+control", "B+A", "control"]


def build(names, doses=None, train=None, control="control", sep="+"):
    names = pd.Series(names)
    train = np.ones(len(names), bool) if train is None else np.asarray(train)
    return build_treatment_table(names, None if doses is None else pd.Series(doses), train, control, sep)


def test_combinations_are_multi_hot_whatever_their_order():
    table, codes = build(NAMES)
    assert table.perturbations == ("A", "B")
    expected = [[0, 0], [1, 0], [1, 0], [0, 1], [1, 1], [1, 0], [1, 1], [0, 0]]
    np.testing.assert_array_equal(table.design[codes], np.array(expected, np.float32))
    assert table.design.shape == (4, 2)
    np.testing.assert_array_equal(table.design[0], 0)  # row 0 is always control
    assert table.names[0] == "control"


def test_row_0_is_control_even_if_control_comes_last():
    table, codes = build(["B", "A", "control"])
    assert codes.tolist() == [1, 2, 0]
    np.testing.assert_array_equal(table.design, np.array([[0, 0], [0, 1], [1, 0]], np.float32))


def test_without_separator_names_are_never_split():
    table, codes = build(["control", "A+B", "A"], sep=None)
    assert table.perturbations == ("A", "A+B")
    np.testing.assert_array_equal(table.design[codes], np.array([[0, 0], [0, 1], [1, 0]], np.float32))
    with pytest.raises(ValueError, match="Combinations need `combination_sep`"):
        table.vector("A+A+B")


def test_the_name_of_the_control_may_hold_the_separator():
    table, codes = build(["non-targeting", "A", "A-B"], control="non-targeting", sep="-")
    assert table.perturbations == ("A", "B")
    assert codes.tolist() == [0, 1, 2]
    assert table.members("non-targeting") == []


def test_members_are_stripped_and_checked():
    assert split_combination("A + B", "control", "+") == ["A", "B"]
    assert split_combination("control+control", "control", "+") == []
    with pytest.raises(ValueError, match="empty member"):
        split_combination("A+", "control", "+")
    with pytest.raises(ValueError, match="names a perturbation twice"):
        split_combination("A+A", "control", "+")


def test_doses_are_divided_by_the_largest_training_dose():
    doses = [0, 1, 4, 3, "2+1.5", "2+0", "6+4", 7]
    train = [True, True, True, True, True, True, False, True]
    table, codes = build(NAMES, doses, train)
    np.testing.assert_array_equal(table.max_dose, [4.0, 3.0])
    expected = np.array([[0, 0], [0.25, 0], [1, 0], [0, 1], [0.5, 0.5], [0.5, 0], [1, 2], [0, 0]], np.float32)
    np.testing.assert_allclose(table.design[codes], expected, rtol=1e-6)


def test_the_scale_of_doses_ignores_cells_that_are_not_for_training():
    names, train = ["control", "A", "A", "B"], [True, True, False, False]
    for held_out in (2.0, 900.0):
        table, codes = build(names, [0, 2, held_out, 5], train)
        assert table.max_dose[0] == 2.0
        assert table.design[codes[2], 0] == pytest.approx(held_out / 2)
        assert table.max_dose[1] == 5.0  # never trained: the largest there is
        assert table.default_dose["A"] == "2.0"


def test_dose_of_control_is_zero_whatever_the_column_says():
    table, codes = build(["control", "control", "control", "A"], [np.nan, "x", 5, 2])
    assert codes.tolist() == [0, 0, 0, 1]
    np.testing.assert_array_equal(table.design, [[0], [1]])


def test_dose_zero_is_control():
    table, codes = build(["control", "A", "A", "A+B"], [0, 0.0, 2, "0+0"])
    assert codes.tolist() == [0, 0, 1, 0]


def test_doses_of_different_text_and_equal_value_are_one_treatment():
    table, codes = build(["control", "A", "A", "A"], ["0", "1", "1.0", 1])
    assert codes.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    ("dose", "treatment", "expected"),
    [
        ("1+0.5", "A+B", [1, 0.5]),
        ("1+0", "A+control", [1]),  # one dose per part, as in files of other tools
        ("0+1", "control+A", [1]),
        ("1+nan", "A+control", [1]),
        (2, "A+B", [2, 2]),
        ("2", "A+B", [2, 2]),
        ("2", "A+control", [2]),
        ("", "control", []),
        ("3+3", "control+control", []),
        (np.float32(0.5), "A", [0.5]),
    ],
)
def test_doses_follow_members(dose, treatment, expected):
    assert member_doses(dose, treatment, "control", "+") == pytest.approx(expected)


@pytest.mark.parametrize("dose", ["x", np.nan, np.inf, -1.0, "1+-1", "nan", None, "1+", "1+x", True])
def test_impossible_doses_name_dose_and_treatment(dose):
    with pytest.raises(ValueError, match=r"Dose .* of treatment 'A\+B' is not a finite number"):
        parse_dose(dose, 2, "+", "A+B")


def test_wrong_number_of_doses():
    with pytest.raises(ValueError, match="has 2 members but dose '1.2.3' has 3".replace(".", r"\+")):
        parse_dose("1+2+3", 2, "+", "A+B")


def test_missing_dose_of_a_treated_cell_raises():
    with pytest.raises(ValueError, match="Dose 'nan' of treatment 'A'"):
        build(["control", "A", "A"], [0, 1, np.nan])


def test_default_dose_is_the_most_frequent_training_dose():
    names = ["control", *["A"] * 6, *["A+B"] * 3]
    doses = [0, 1, 1, 3, 3, 3, 0, "1+2", "3+1", "3+1"]
    train = [True, True, True, True, False, False, True, True, True, False]
    table, _ = build(names, doses, train)
    np.testing.assert_array_equal(table.max_dose, [3, 2])
    np.testing.assert_allclose(table.vector("A"), [1 / 3, 0])  # 1 twice in training, 3 once
    np.testing.assert_allclose(table.vector("A+B"), [1 / 3, 1])  # a tie: the one that appears first
    np.testing.assert_allclose(table.vector("B+A"), [1 / 3, 1])  # doses follow members, not positions
    np.testing.assert_allclose(table.vector("A+control"), [1 / 3, 0])
    np.testing.assert_allclose(table.vector("B"), [0, 1])  # never alone: its largest dose
    np.testing.assert_allclose(table.vector("B+A", "2+1.5"), [0.5, 1])


def test_default_dose_is_never_zero():
    table, _ = build(["control", "A", "A", "A"], [0, 0, 0, 2])
    assert table.default_dose == {"A": "2.0"}
    np.testing.assert_array_equal(table.vector("A"), [1])
    np.testing.assert_array_equal(table.vector("control", 0), [0])


@pytest.mark.parametrize("doses", [[0, 1], None])
def test_control_has_no_dose(doses):
    table, _ = build(["control", "A"], doses)
    with pytest.raises(ValueError, match=r"A dose \(3\) was given for 'control', the control"):
        table.vector("control", 3)
    with pytest.raises(ValueError, match="Dose 'high' of treatment 'control'"):
        table.vector("control", "high")


def test_default_dose_of_a_combination_never_seen_is_each_member_s_own():
    table, _ = build(["control", "A", "A", "A", "B", "C"], [0, 1, 1, 4, 2, 5])
    np.testing.assert_allclose(table.vector("C+A"), [0.25, 0, 1])


def test_usual_dose_as_text_gives_the_default_vector():
    table, _ = build(["control", "A", "A", "A", "B", "C", "A+B", "D+control"], [0, 1, 1, 4, 2, 5, "4+1", "3+0"])
    expected = {"A": "1.0", "A+B": "4+1", "B+A": "1.0+4.0", "C+A": "5.0+1.0", "D+control": "3+0", "control": ""}
    for treatment, text in expected.items():
        assert table.usual_dose(treatment) == text
        np.testing.assert_array_equal(table.vector(treatment, text or None), table.vector(treatment))
    assert build(["control", "A"])[0].usual_dose("A") == ""


def test_a_dose_without_dose_key_raises():
    table, _ = build(["control", "A"])
    with pytest.raises(ValueError, match="no `dose_key` was registered"):
        table.vector("A", 2.0)


def test_unknown_treatment_is_named_with_those_known():
    table, _ = build(NAMES)
    with pytest.raises(ValueError, match=r"Unknown treatment 'A\+Z' \(no \['Z'\]\). Known: control, A, B"):
        table.vector("A+Z")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("irf1", "'IRF1'"),  # the same but for case: nothing else is asked
        ("IFR9", "'IRF9'"),
        ("irf", "'IRF9' or 'IRF1'"),
        ("Control", "'control'"),
        ("irf1+stat1", "'IRF1' or 'STAT1'"),
    ],
)
def test_unknown_treatment_suggests_what_is_spelled_alike(name, meant):
    table, _ = build(["control", "IRF1", "IRF9", "STAT1"])
    with pytest.raises(ValueError, match=r"Did you mean (.*)\? Known: control") as caught:
        table.vector(name)
    assert set(str(caught.value).split("Did you mean ")[1].split("?")[0].split(" or ")) == set(meant.split(" or "))


def test_nothing_is_suggested_where_nothing_is_alike():
    table, _ = build(["control", "IRF1"])
    with pytest.raises(ValueError, match=r"\(no \['TP53'\]\). Known"):
        table.vector("TP53")


def test_condition_finds_observed_vectors_only():
    table, codes = build(["control", "A", "A", "B"], [0, 1, 3, 2])
    for cell, (name, dose) in enumerate([("control", None), ("A", 1), ("A", "3"), ("B", 2.0)]):
        assert table.condition(table.vector(name, dose)) == codes[cell]
    assert table.condition(table.vector("A", 2)) is None
    assert table.condition(table.vector("A+B", "1+2")) is None


def test_new_data_extend_doses_and_combinations_but_not_perturbations():
    table, _ = build(["control", "A", "A", "B"], [0, 1, 4, 2])
    new, codes = extend_treatment_table(table, pd.Series(["A", "A+B", "A", "control"]), pd.Series([8, "2+1", 4, 0]))
    assert codes.tolist() == [4, 5, 2, 0]
    np.testing.assert_array_equal(new.design[: len(table.design)], table.design)
    np.testing.assert_allclose(new.design[4:], [[2, 0], [0.5, 0.5]])  # by the saved largest dose, beyond 1 if larger
    np.testing.assert_array_equal(new.max_dose, table.max_dose)
    assert new.default_dose == table.default_dose
    with pytest.raises(ValueError, match="Unknown treatment 'C'"):
        extend_treatment_table(table, pd.Series(["C"]), pd.Series([1]))


def test_new_data_without_doses_get_default_doses():
    table, _ = build(["control", "A", "A", "A"], [0, 1, 1, 4])
    _, codes = extend_treatment_table(table, pd.Series(["A", "control"]), None)
    assert codes.tolist() == [1, 0]


def test_state_round_trip():
    table, _ = build(NAMES, [0, 1, 4, 3, "2+1.5", 2, "3+4", 7])
    again = TreatmentTable.from_state(table.to_state())
    for name in ("perturbations", "control", "combination_sep", "names", "doses", "default_dose"):
        assert getattr(again, name) == getattr(table, name)
    np.testing.assert_array_equal(again.design, table.design)
    np.testing.assert_array_equal(again.max_dose, table.max_dose)


def test_many_cells_agree_with_a_loop():
    rng = np.random.default_rng(0)
    names = rng.choice(["control", "A", "B", "C", "A+B", "C+A"], 500)
    doses = [float(rng.integers(1, 4)) for _ in names]
    table, codes = build(names, doses)
    largest = {"A": 3.0, "B": 3.0, "C": 3.0}
    expected = np.zeros((500, 3), np.float32)
    for cell, (name, dose) in enumerate(zip(names, doses, strict=True)):
        for member in name.split("+"):
            if member != "control":
                expected[cell, "ABC".index(member)] = dose / largest[member]
    np.testing.assert_allclose(table.design[codes], expected, rtol=1e-6)
    assert len(np.unique(table.design, axis=0)) == len(table.design)


def test_doses_that_are_close_but_not_equal_are_told_apart():
    table, codes = build(["control", "A", "A", "A"], doses=[0, 1e-4, 2e-3, 1])
    assert len(table.design) == 4
    for row, dose in zip(codes[1:], (1e-4, 2e-3, 1), strict=True):
        assert table.condition(table.vector("A", dose)) == row
