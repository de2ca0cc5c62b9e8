from __future__ import annotations
from support.buildbot import Site, SUCCESS

def test_first(site: Site) -> None:
    build = site.force(["sh", "-c", "setsid sleep 100 & echo hello; cat /proc/self/cgroup"])
    got = build.result()
    print(build.logs())
    assert got == SUCCESS
