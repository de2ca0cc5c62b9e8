"""scripts/bench: what it makes of samples. Durations are never asserted."""

import runpy
from pathlib import Path

import pytest

results = runpy.run_path(str(Path(__file__).parents[2] / "scripts/bench.d/results.py"))
SAMPLES = {"true/bare": [1_000_000, 2_000_000, 9_000_000], "true/cgroup": [1_500_000, 4_000_000, 5_000_000]}


def test_ratios_are_of_medians_and_of_minimums_to_the_baseline() -> None:
    bare, ours = results["rows"](SAMPLES, "small", "bare")
    assert (bare.ratio, ours.median_ms, ours.ratio, ours.ratio_of_minimums) == (1.0, 4.0, 2.0, 1.5)


@pytest.mark.parametrize(
    ("value", "met", "said"),
    [(1.2, True, "met: 1.20"), (1.8, False, "missed: 1.80, 20% over"), (None, None, "not measured")],
)
def test_a_target_says_whether_it_was_met_and_by_how_much_not(value: float, met: bool, said: str) -> None:
    target = results["Target"]("a claim", 1.5, value)
    assert (target.met, target.verdict()) == (met, said)


def test_targets_of_scopes_are_to_the_baseline_of_their_own_rows() -> None:
    found = results["rows"]({"stop/systemctl": [10_000_000], "stop/scope": [1_000_000]}, "root", "systemctl")
    later, *first, stop = results["unit_targets"](found, "root")
    assert (later.met, [each.met for each in first]) == (None, [None, None])
    assert (stop.value, stop.met) == (0.1, True)


def test_targets_of_scopes_are_of_the_place_that_they_name() -> None:
    found = results["rows"]({"true/bare": [1_000_000], "true/scope": [1_400_000]}, "root", "bare")
    assert [each.value for each in results["unit_targets"](found, "user")] == [None] * 4
