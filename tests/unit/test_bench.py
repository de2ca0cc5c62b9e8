"""scripts/bench: what it makes of samples. Durations are never asserted."""

import re
import runpy
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
results = runpy.run_path(str(TOP / "scripts/bench.d/results.py"))
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


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> str:
    """What the generator makes of a little."""
    monkeypatch.syspath_prepend(str(TOP / "scripts/bench.d"))
    for name in ("page", "results"):  # forgotten afterwards, for others have such names
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    import page

    beside = [page.Row("tree", how, "-", 3, 2.0, 1.0, "subprocess", 1.5, 1.0) for how in ("cgroup", "subprocess")]
    machine = {"kernel": "6.1", "python": "3.11"}
    left = {("tree", "subprocess"): 3}
    return str(
        page.page(beside, [page.Target("a claim", 1.5, 1.2)], left, ["a peer: not\nthere"], machine, "2026-01-01")
    )


def shape(text: str) -> list[str]:
    """Headings and columns, without what is measured."""
    return re.findall(r"^(?:#.*|\|.*\|(?=\n\|---))", text, re.MULTILINE)


def test_the_page_of_the_documentation_is_what_the_generator_writes(page: str) -> None:
    written = (TOP / "docs/performance.md").read_text(encoding="utf-8")
    assert shape(written) == shape(page)
    assert page.partition("## Where")[0] == written.partition("## Where")[0]


def test_the_baseline_comes_first_and_what_was_left_alive_is_said(page: str) -> None:
    baseline, ours = re.findall(r"^\| (?:subprocess|allgone).*", page, re.MULTILINE)
    assert baseline == "| subprocess.Popen, terminate(), wait() | 2.000 | 1.000 | 1.50 | 3 |"
    assert ours == "| allgone, cgroup | 2.000 | 1.000 | 1.50 |  |"
    assert page.endswith("\n- a peer: not there\n")
