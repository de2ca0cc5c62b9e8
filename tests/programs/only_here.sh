#!/bin/sh
# only_here.sh PLACE POINT COMMAND [ARG]...: run COMMAND where no other cgroups are to be seen than those below the
# cgroup PLACE, which it finds at the directory POINT. In a mount namespace of its own, so it takes root.
[ "$ONLY_HERE" ] || ONLY_HERE=1 exec unshare --mount --propagation private sh "$0" "$@"
unset ONLY_HERE
set -e
mount --bind "$1" "$2"
point=$2
mounts=$(cat /proc/self/mountinfo)
shift 2
echo "$mounts" | while read -r _ _ _ _ other rest; do
  case $rest in *" - cgroup2 "*) [ "$other" = "$point" ] || umount -l "$other" ;; esac
done
exec "$@"
