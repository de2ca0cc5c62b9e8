"""``python -m allgone``: the command."""

import sys

from allgone.cli import main

sys.exit(main())
