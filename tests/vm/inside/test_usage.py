"""usage() where there are controllers: memory, tasks and IO, live and when all is over."""

from __future__ import annotations

import pytest
from support.machine import supervised

# The scope's own processes are below it, so it may hand its controllers on.
WITH_CONTROLLERS = """
def enable():
    first = allgone.Popen(["sleep", "1000"], backend="cgroup")
    put(os.path.dirname(first._containment.where()) + "/cgroup.subtree_control", "+memory +pids +io")
    return first
"""


@pytest.mark.smoke
@pytest.mark.root
def test_memory_tasks_and_io_are_told_live_and_in_the_report() -> None:
    code = """
first = enable()
work = '''
import os, threading, time
hoard = bytearray(50_000_000)
del hoard
for _ in range(5):
    threading.Thread(target=time.sleep, args=(0.1,)).start()
with open("/var/tmp/allgone-usage", "wb") as f:
    f.write(os.urandom(3_000_000))
    f.flush()
    os.fsync(f.fileno())
os.unlink("/var/tmp/allgone-usage")
print("ready", flush=True)
time.sleep(1000)
'''
child = allgone.Popen([sys.executable, "-c", work], backend="cgroup", stdout=subprocess.PIPE)
assert child.stdout.readline() == b"ready\\n"
live = child.usage()
final = child.stop().usage
first.stop()
for each in live, final:
    assert each.memory_peak is None or each.memory_peak > 50_000_000, each  # Linux 5.19
    assert each.tasks_peak is None or each.tasks_peak >= 6, each
    assert each.io_write_bytes >= 3_000_000 and each.io_writes > 0, each
assert live.memory > 1_000_000 and live.tasks >= 1, live
assert not final.approximate
"""
    supervised(WITH_CONTROLLERS + code)
