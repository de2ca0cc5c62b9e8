# Shared by scripts/test and scripts/demo: packages and the virtual environment. Sourced, from the top of the checkout.

say() { printf '\n== %s\n' "$*"; }

left_out=()
leave_out() { left_out+=("$1: $2"); }

# missing PACKAGE:PROGRAM… prints the packages whose program is not here (no program named: that are not installed)
missing() {
  local each package program
  for each in "$@"; do
    package=${each%%:*} program=${each#*:}
    if [ -n "$program" ]; then
      PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || echo "$package"
    else
      [ "$(dpkg-query -Wf '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || echo "$package"
    fi
  done
}

# install PACKAGE:PROGRAM… installs what is missing, or says in left_out why it could not
install() {
  local packages policy=/usr/sbin/policy-rc.d
  packages=$(missing "$@" | xargs)
  [ -n "$packages" ] || return 0
  if ! command -v apt-get >/dev/null; then
    leave_out packages "no apt-get here; wanted: $packages"
    return 0
  fi
  if [ "$(id -u)" != 0 ]; then
    leave_out packages "not root, so not installed: $packages"
    return 0
  fi
  say "apt-get install $packages"
  ( # Servers are started by the tests themselves; they must not be started as services.
    if [ ! -e "$policy" ]; then
      printf '#!/bin/sh\nexit 101\n' >"$policy"
      chmod 755 "$policy"
      trap 'rm -f "$policy"' EXIT
    fi
    apt-get update -q
    # shellcheck disable=SC2086  # one word each
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $packages
  )
}

# venv EXTRAS makes .venv and installs the checkout into it, editable
venv() {
  local python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed"; exit 1; }
  # One that was moved, or whose interpreter is gone, is made anew.
  .venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
  .venv/bin/python -m pip install -q --disable-pip-version-check -e ".$1"
}
