#!/bin/sh
# Runs a command in a checkout inside of a clean root. The mounts end with the namespace that `main.ts` made. A chroot
# would not do: the kernel makes no user namespaces in one, and jails need them.
# Arguments: the root, the command and its arguments.
set -eu
root=$1
shift
mount --bind "$root" "$root"
cd "$root"
for name in dev sys; do mount --rbind "/$name" "$name"; done
mount -t proc proc proc
mount -t tmpfs tmpfs run
mkdir old
pivot_root . old
# The clean root has no umount.
lib=/old/usr/lib/x86_64-linux-gnu
LD_LIBRARY_PATH=$lib "$lib/ld-linux-x86-64.so.2" /old/usr/bin/umount -l /old
rmdir /old
cd /root/neurovisor
exec "$@"
