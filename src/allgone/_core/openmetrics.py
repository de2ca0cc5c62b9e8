"""Metrics as text: OpenMetrics (https://openmetrics.io), and the older format of Prometheus.

They differ in two things: what is said of a counter is said of its name without ``_total`` in OpenMetrics, and only
OpenMetrics has units and an end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

Format = Literal["openmetrics", "prometheus"]
FORMATS: tuple[Format, ...] = ("openmetrics", "prometheus")


@dataclass(slots=True)
class Family:
    """A metric, and its samples: how the name goes on, labels, value."""

    name: str  # without the suffix of a counter
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    unit: str = ""  # with which the name ends
    samples: list[tuple[str, Mapping[str, object], float]] = field(default_factory=list)

    def add(self, value: float, suffix: str = "", /, **labels: object) -> None:
        self.samples.append((suffix or ("_total" if self.kind == "counter" else ""), labels, value))


def text(families: Iterable[Family], format: Format) -> str:
    """All that has samples.

    >>> stops = Family("allgone_stops", "counter", "Stops.")
    >>> stops.add(3, backend="cgroup")
    >>> print(text([stops], "openmetrics"), end="")
    # HELP allgone_stops Stops.
    # TYPE allgone_stops counter
    allgone_stops_total{backend="cgroup"} 3
    # EOF
    """
    is_open = format == "openmetrics"
    lines = []
    for family in families:
        if not family.samples:
            continue
        name = family.name + ("_total" if family.kind == "counter" and not is_open else "")
        lines += [f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}"]
        if is_open and family.unit:
            lines.append(f"# UNIT {name} {family.unit}")
        lines += [
            f"{family.name}{suffix}{_labels(labels)} {_number(value)}" for suffix, labels, value in family.samples
        ]
    return "".join(f"{line}\n" for line in [*lines, *(["# EOF"] if is_open else [])])


def _labels(labels: Mapping[str, object]) -> str:
    pairs = [f'{name}="{_escaped(str(value))}"' for name, value in labels.items()]
    return "{" + ",".join(pairs) + "}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
