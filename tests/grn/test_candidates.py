from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scgraphvci.grn._candidates import Candidates, magnitudes, tidy_networks

GENES = pd.Index(list("abcd"))
TRUTH = pd.DataFrame({"source": ["a", "b"], "target": ["b", "c"], "weight": [1.0, -2.0]})


def pairs(candidates):
    rows, columns = np.nonzero(candidates.mask)
    return {(candidates.regulators[i], candidates.genes[j]) for i, j in zip(rows, columns, strict=True)}


@pytest.mark.parametrize(
    ("chosen", "genes", "expected"),
    [
        (None, None, {"ab", "ac", "ba", "bc"}),
        (None, GENES, {"ab", "ac", "ad", "ba", "bc", "bd"}),
        (["d", "zzz"], GENES, {"da", "db", "dc"}),
        (pd.DataFrame({"source": ["a", "c", "c"], "target": ["d", "c", "zzz"]}), GENES, {"ad"}),
    ],
    ids=["sources of the truth", "genes of the data", "regulators", "pairs"],
)
def test_which_pairs_are_candidates(chosen, genes, expected):
    assert {"".join(pair) for pair in pairs(Candidates.of(chosen, TRUTH, genes))} == expected


def test_choices_without_a_candidate():
    with pytest.raises(TypeError, match=r"got 'a'. Use \['a'\]"):
        Candidates.of("a", TRUTH, GENES)
    with pytest.raises(ValueError, match="There is no candidate edge"):
        Candidates.of(["zzz"], TRUTH, GENES)


def test_scores_and_back():
    candidates = Candidates.rectangle(pd.Index(["a", "b"]), GENES)
    net = pd.DataFrame(
        {
            "source": ["a", "a", "a", "b", "zzz"],
            "target": ["b", "b", "a", "d", "a"],
            "weight": [0.5, -3.0, 9.0, 1.0, 9.0],
        }
    )
    expected = np.zeros((2, 4))
    expected[0, 1], expected[1, 3] = 3.0, 1.0  # of duplicates the largest; no self-loop, no unknown gene
    np.testing.assert_array_equal(candidates.scores(net), expected)
    np.testing.assert_array_equal(candidates.listed(net), expected > 0)
    assert candidates.frame(expected).values.tolist() == [["a", "b", 3.0], ["b", "d", 1.0]]


def test_magnitudes():
    net = pd.DataFrame({"source": list("aaab"), "target": list("bbab"), "weight": [1.0, -2.0, 5.0, 0.0]})
    assert magnitudes(net).to_dict() == {("a", "b"): 2.0}


def test_networks_by_name():
    assert list(tidy_networks(TRUTH)) == ["network"]
    assert list(tidy_networks({"x": TRUTH, 3: TRUTH})) == ["x", "3"]
    with pytest.raises(ValueError, match="`nets` is empty"):
        tidy_networks({})
