"""Copies files into the root of a stage: from the context, which comes as an archive, or from another stage."""

import fnmatch
import os
import stat
import subprocess

from step_root import (
    CONTEXT,
    DETAIL_CHARACTERS,
    ROOT,
    STAGE,
    UNPACKED,
    Failed,
    make_directories,
    resolve,
    sync,
    user_of,
)


def copy(plan):
    is_client = plan["packed"] != "context"
    if plan["from"] is None:
        named = receive(plan["named"], ["-z"] if plan["packed"] == "gzip" else [])
        if is_client:
            named = find(CONTEXT, plan["patterns"])
    else:
        named = find(f"{STAGE}/from/{plan['from']}", plan["patterns"])
    user = None if plan["owner"] is None else user_of(ROOT, plan["owner"])
    copier = Copier(None if user is None else (user.uid, user.gid), plan["mode"], has_devices=not is_client)
    target = resolve(ROOT, plan["target"])
    into = plan["target"].endswith("/") or len(named) > 1 or os.path.isdir(target)
    for path, name in named:
        if plan["extracts"] and is_archive(path):
            extract(path, target)
        elif os.path.isdir(path):
            if is_client:
                # The mode is for the files in the directory. With a file's mode, no user could enter the directory.
                copier.directories(target)
            copier.contents(path, target)
        else:
            copier.one(path, resolve_directory(f"{target}/{name}") if into else target)
    sync()
    if plan["from"] is None:
        subprocess.run(["rm", "-rf", CONTEXT], check=False)
    return {}


def resolve_directory(path):
    """Follows links to the directory, but not the entry, which is replaced."""
    head, tail = os.path.split(path)
    return os.path.join(resolve(ROOT, head[len(ROOT) :]), tail)


def receive(named, options=()):
    os.makedirs(CONTEXT)
    unpack = ["tar", "-x", "-p", *options, "--numeric-owner", "-f", "-", "-C", CONTEXT]
    done = subprocess.run(unpack, stdin=0, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        words = done.stderr[:DETAIL_CHARACTERS].decode("utf-8", "replace")
        raise Failed("full" if "No space left" in words else "failed", words.strip())
    return [(f"{CONTEXT}/{number}", name) for number, name in enumerate(named)]


def find(root, patterns):
    """Expands wildcards as Go's filepath.Glob does, in the order of the patterns."""
    found = []
    for pattern in patterns:
        here = [""]
        parts = [part for part in pattern.split("/") if part not in ("", ".")]
        for part in parts:
            here = [each for at in here for each in below(root, at, part)]
        if not here:
            raise Failed("missing", f"{pattern} is not there")
        found += [(resolve(root, at), os.path.basename(at)) for at in here]
    return found


def below(root, at, part):
    if part == "..":
        return [os.path.dirname(at)]
    if not any(mark in part for mark in "*?[\\"):
        return [f"{at}/{part}"] if os.path.lexists(f"{resolve(root, at)}/{part}") else []
    try:
        names = sorted(os.listdir(resolve(root, at)))
    except NotADirectoryError:
        return []
    escaped = part.replace("[^", "[!")
    return [f"{at}/{name}" for name in names if fnmatch.fnmatchcase(name, escaped)]


class Copier:
    def __init__(self, owner, mode, changes_directories=False, has_devices=True):
        self.owner, self.mode, self.changes_directories = owner, mode, changes_directories
        self.has_devices = has_devices
        self.links = {}

    def directories(self, path):
        make_directories(path, self.owner)

    def contents(self, source, target):
        if not os.path.lexists(target):
            self.directories(os.path.dirname(target))
            os.mkdir(target, 0o755)
            self.attributes(source, target)
        if not os.path.isdir(target):
            raise Failed("failed", f"{target[len(ROOT) :]} is not a directory")
        for entry in sorted(os.scandir(source), key=lambda one: one.name):
            self.one(entry.path, f"{target}/{entry.name}")

    def one(self, source, target):
        info = os.lstat(source)
        self.directories(os.path.dirname(target))
        if stat.S_ISDIR(info.st_mode):
            if os.path.islink(target):
                target = resolve(ROOT, target[len(ROOT) :])
            self.contents(source, target)
            if self.changes_directories:
                self.attributes(source, target)
            return
        if os.path.isdir(target) and not os.path.islink(target):
            raise Failed("failed", f"{target[len(ROOT) :]} is a directory")
        if os.path.lexists(target):
            os.unlink(target)
            self.links = {key: at for key, at in self.links.items() if at != target}
        key = (info.st_dev, info.st_ino)
        if info.st_nlink > 1 and key in self.links:
            os.link(self.links[key], target, follow_symlinks=False)
            return
        if stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(source), target)
        elif stat.S_ISREG(info.st_mode):
            copy_data(source, target)
        elif self.has_devices:
            os.mknod(target, info.st_mode, info.st_rdev)
        else:
            raise Failed("invalid", f"{os.path.basename(source)} is neither a file nor a directory nor a link")
        self.attributes(source, target)
        self.links[key] = target

    def attributes(self, source, target):
        info = os.lstat(source)
        owner = (info.st_uid, info.st_gid) if self.owner is None else self.owner
        os.chown(target, *owner, follow_symlinks=False)
        if not stat.S_ISLNK(info.st_mode):
            os.chmod(target, stat.S_IMODE(info.st_mode) if self.mode is None else self.mode)
        for name in os.listxattr(source, follow_symlinks=False):
            if name.startswith("trusted.overlay"):
                continue
            try:
                value = os.getxattr(source, name, follow_symlinks=False)
                os.setxattr(target, name, value, follow_symlinks=False)
            except OSError:
                # The guest's kernel does not support this attribute.
                pass
        os.utime(target, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=False)


def copy_data(source, target):
    reading = os.open(source, os.O_RDONLY)
    writing = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        at = 0
        while sent := os.sendfile(writing, reading, at, 1 << 24):
            at += sent
    finally:
        os.close(reading)
        os.close(writing)


COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")


def is_archive(path):
    if not os.path.isfile(path) or os.path.islink(path):
        return False
    with open(path, "rb") as file:
        head = file.read(512)
    if head[257:262] == b"ustar":
        return True
    if not head.startswith(COMPRESSED):
        return False
    listed = subprocess.run(["tar", "-t", "-f", path], capture_output=True, check=False)
    return listed.returncode == 0


def extract(path, target):
    """Unpacks elsewhere first: in the target, tar would follow links of the stage's root into ours."""
    os.makedirs(UNPACKED)
    unpack = ["tar", "-x", "-p", "--numeric-owner", "-f", path, "-C", UNPACKED]
    done = subprocess.run(unpack, stderr=subprocess.PIPE, check=False)
    if done.returncode != 0:
        words = done.stderr[:DETAIL_CHARACTERS].decode("utf-8", "replace")
        raise Failed("full" if "No space left" in words else "failed", words.strip())
    Copier(None, None, changes_directories=True).contents(UNPACKED, target)
    subprocess.run(["rm", "-rf", UNPACKED], check=False)
