"""Metrics as text, read by the parsers of prometheus_client."""

from __future__ import annotations

import math

import pytest
from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from allgone._core.openmetrics import Family, text


def families() -> list[Family]:
    info = Family("a_info", "gauge", "Labels of any kind.")
    info.add(1, version='a "b" \\ c\nd', other="")
    stops = Family("a_stops", "counter", "A counter.")
    stops.add(3, backend="cgroup")
    stops.add(2.5, backend="process-group")
    took = Family("a_seconds", "histogram", "A histogram.", "seconds")
    for bound, number in ((0.001, 1), (1.0, 2), ("+Inf", 4)):
        took.add(number, "_bucket", le=bound)
    took.add(1e-9, "_sum")
    took.add(4, "_count")
    large = Family("a_bytes", "gauge", "Large.", "bytes")
    large.add(1 << 62)
    return [info, stops, took, large, Family("a_nothing", "gauge", "Of which there is none.")]


@pytest.mark.parametrize("format", ["openmetrics", "prometheus"])
def test_what_is_written_is_what_a_parser_reads(format: str) -> None:
    written = text(families(), format)  # type: ignore[arg-type]
    parse = (openmetrics_parser if format == "openmetrics" else parser).text_string_to_metric_families
    found = {each.name: each for each in parse(written)}
    assert {name: (each.type, each.documentation) for name, each in found.items()} == {
        "a_info": ("gauge", "Labels of any kind."),
        "a_stops": ("counter", "A counter."),
        "a_seconds": ("histogram", "A histogram."),
        "a_bytes": ("gauge", "Large."),
    }
    assert [(s.name, s.labels, s.value) for s in found["a_info"].samples] == [
        ("a_info", {"version": 'a "b" \\ c\nd', "other": ""}, 1)
    ]
    assert {s.labels["backend"]: s.value for s in found["a_stops"].samples} == {"cgroup": 3, "process-group": 2.5}
    assert [float(s.labels["le"]) for s in found["a_seconds"].samples if s.name.endswith("_bucket")] == [
        0.001, 1, math.inf,
    ]  # fmt: skip
    assert found["a_bytes"].samples[0].value == 1 << 62


def test_the_older_format_knows_neither_units_nor_an_end() -> None:
    assert not [line for line in text(families(), "prometheus").splitlines() if line.startswith(("# UNIT", "# EOF"))]
    assert text(families(), "openmetrics").endswith("# EOF\n")
