#!/bin/sh
# Runs a command in a checkout inside of a clean root. The mounts end with the namespace that `main.ts` made.
# Arguments: the root, the command and its arguments.
set -eu
root=$1
shift
for name in dev sys; do mount --rbind "/$name" "$root/$name"; done
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/run"
cd "$root"
exec chroot . sh -c 'cd /root/neurovisor && exec "$@"' sh "$@"
