"""What was started ends at once with status 7; its child stays, in the same session."""

import os

from unruly import fork, here, ready, sleep_on

here("leader")
if fork():
    os._exit(7)
here("child")
ready()
sleep_on()
