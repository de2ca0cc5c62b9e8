#!/bin/sh
# chain.sh N: N processes, each the child of the one before. The last says ready, and ends after two minutes.
if [ "$1" -gt 1 ]; then
  sh "$0" $(($1 - 1)) &
  wait
else
  echo ready
  exec sleep 120
fi
