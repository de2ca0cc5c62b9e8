"""A build's command: starts an unruly program, and when that is ready it waits for it, or ends and leaves it.

job.py stay|STATUS PROGRAM [ARGUMENT]…

It ends at once where the job of that number has been ready before: Buildbot does a build again that it has lost.
"""

import os
import pathlib
import subprocess
import sys

then, program, *arguments = sys.argv[1:]
path = pathlib.Path(__file__).parents[2] / f"programs/{program}.py"
before = pathlib.Path.home() / f"ready-{os.environ['JOB']}"
if before.exists():
    print("done before")
    sys.exit(0)
process = subprocess.Popen([sys.executable, "-S", "-B", str(path), *arguments], stdout=subprocess.PIPE)
for line in process.stdout:
    sys.stdout.buffer.write(line)
    sys.stdout.buffer.flush()
    if line == b"ready\n":
        before.touch()
        break
if then == "stay":
    process.stdout.read()  # until nobody who could write is left
else:
    sys.exit(int(then))
