"""A supervisor of the soak: does random things with allgone, and looks each time whether all is gone.

supervisor.py KIND SEED FOLDER long|short [SABOTAGE]

It says "up" on stdout. On stdin: "round SECONDS", or "rest SECONDS", with which it stops all that it holds in the end;
then it says, as JSON, what it did. It ends at the end of file. FOLDER has `journal`, a line before and after each
operation. What should not be is an exception, and ends it.
"""

from __future__ import annotations

import json
import signal
import sys

import operations
import sabotages
from state import Soak


def main(kind: str, seed: str, folder: str, life: str, *sabotage: str) -> None:
    soak = Soak(kind, seed, folder, is_long_lived=life == "long")
    for each in sabotage:
        sabotages.begin(each, soak)
    if soak.random.random() < 0.5:  # else SIGTERM ends it without clean-up
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    chosen = operations.possible(soak)
    print("up", flush=True)
    for line in sys.stdin:
        word, seconds = line.split()
        soak.round(float(seconds), chosen)
        if word == "rest":
            soak.rest()
        print(json.dumps({"done": soak.done, "escapees": soak.escapees}), flush=True)
        soak.done.clear()
        soak.escapees = 0


if __name__ == "__main__":
    main(*sys.argv[1:])
