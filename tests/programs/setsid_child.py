"""Its child makes a session of its own and stays its child, as PostgreSQL's backends do."""

import os

from unruly import fork, here, ready, sleep_on

here("leader")
if fork() == 0:
    os.setsid()
    here("escaped")
    ready()
sleep_on()
