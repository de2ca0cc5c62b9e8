"""scripts/soak: what it makes of what it finds."""

import runpy
from pathlib import Path

import pytest

results = runpy.run_path(str(Path(__file__).parents[2] / "scripts/soak.d/results.py"))


@pytest.mark.parametrize("kind", ["survivors", "leaks", "errors"])
def test_one_finding_is_enough_to_fail(kind: str) -> None:
    found = results["Found"]()
    assert found.is_good
    found += results["Found"](**{kind: ["something"]})
    assert not found.is_good
    assert f"{kind.upper()} 1" in found.line()
    assert found.details() == [f"  {kind}: something"]


def test_what_is_so_by_design_is_no_failure() -> None:
    assert results["Found"](escapees=3, lost=7).is_good


@pytest.mark.parametrize(
    ("megabytes", "grew"),
    [
        ([], 0),
        ([20.0], 0),
        ([10.0, 20.0, 30.0, 30.0] + [31.0] * 8, 0),  # the warm-up does not count
        ([30.0] * 4 + [30.0 + 2 * n for n in range(9)], 12),
        ([20.0, 20.0, 30.0], 10),  # too few to tell
    ],
)
def test_memory_grows_from_the_first_third_after_the_warm_up_to_the_last(megabytes: list[float], grew: float) -> None:
    assert results["growth"](megabytes) == grew
    assert bool(results["grown"]({"one": megabytes})) == (grew > results["MAY_GROW"] and len(megabytes) > 3)
