"""Reports to be rendered: a traced one, one of thousands of processes, and one with names that mean harm."""

from __future__ import annotations

import signal

from allgone import Process, Report, Sample, Sent
from allgone._core.genealogy import Exec, Genealogy, Life

HOSTILE = [
    "</script><script>window.harmed = 1</script>",
    "<img src=x onerror='window.harmed = 1'>",
    "'\"--><svg onload=window.harmed=1>",
    "\x1b[31mred\x1b]0;title\x07",
    "\u202etxt.exe\u2066",
    "a\nb\r\n### heading\n| x | y |\n```\n<details>",
    "\udcff\udcfe\udc80",
    "**bold** [link](javascript:alert(1)) `code` | cell",
    "{{ 7 * 7 }}{% raw %}${harm}",
    "&lt;b&gt;\u2028\u2029\0",
    "x" * 100_000,
]


def _life(
    pid: int, parent: int, began: float, ended: float | None, returncode: int | None, *execs: Exec, left: float = 0
) -> Life:
    return Life(pid, parent, began, ended, returncode, execs, (left,) if left else ())


TRACED = Report(
    "1-make", "cgroup", -15, (Process(100, "make", "make"),), (Sent(signal.SIGTERM, (100,), 0.0),), (), (),
    (Process(104, "daemon", "daemon --now"),), 1.5, began=1004.0,
    genealogy=Genealogy(
        1000.0,
        (
            _life(100, 1, 0.0, 5.0, -15, Exec(0.0, "make -j4")),
            _life(101, 100, 1.0, 3.0, 0, Exec(1.1, "sh -c cc")),
            _life(102, 100, 1.5, 2.0, -11),
            _life(103, 101, 1.6, 5.5, -9, Exec(1.7, "/usr/bin/cc -c a.c")),
            _life(104, 100, 2.0, None, None, Exec(2.5, "daemon --now"), left=2.2),
            _life(101, 100, 3.5, 3.6, 3, Exec(3.5, "")),
        ),
        7,
        2,
    ),
    samples=tuple(Sample(1000.0 + n, n * n / 10, n << 20) for n in range(6)),
)  # fmt: skip


def many(count: int) -> Report:
    """A leader, its children, and theirs."""
    lives = [_life(1, 0, 0.0, 10.0, 0, Exec(0.0, "make -j100"))]
    for n in range(2, count + 1):
        parent = 1 if n % 10 == 0 else max(1, n - n % 10)
        began = n / count * 8
        returncode = (0, 0, 1, -15, -9)[n % 5]
        lives.append(_life(n, parent, began, began + 1, returncode, Exec(began, f"/usr/bin/cc -c file{n}.c")))
    return Report("1-make", "cgroup", 0, (), (), (), (), (), 0.01, began=1010.0, genealogy=Genealogy(1000.0, tuple(lives), 0, 0))  # fmt: skip


def hostile(*names: str) -> Report:
    """One process for each name, in whatever a report can say of it."""
    names = names or tuple(HOSTILE)
    processes = tuple(Process(n + 2, name, name, name) for n, name in enumerate(names))
    lives = [_life(1, 0, 0.0, 1.0, 0, Exec(0.0, names[0]))]
    lives += [_life(each.pid, 1, 0.1, 0.9, 0, Exec(0.1, each.command)) for each in processes]
    return Report(
        "1-x", "cgroup", 0, processes, (), processes, (), processes, 0.1, names[0], began=1001.0,
        genealogy=Genealogy(1000.0, tuple(lives), 0, 0),
    )  # fmt: skip
