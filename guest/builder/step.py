"""Runs the steps of a stage of a Dockerfile, in a VM of its own. A call for each; mounts stay between them.

    step.py LENGTH     stdin: a plan in JSON of that many bytes, then an archive if the plan is to copy one

    {"task": "mount"}      /stage/root: the stage's base under the scratch disk; /stage/from/N: other stages
    {"task": "receive"}    files of the archive, for mounts of the next command
    {"task": "run"}        a command in that root, in namespaces of its own
    {"task": "copy"}       files of the archive or of another stage into that root
    {"task": "directory"}  a directory in that root
    {"task": "pack"}       that root as an EROFS image on the output disk

All but `run` print one line of JSON: `{}`, `{"bytes": n}` or `{"code": c, "detail": text}`. `run` has the output and the
status of its command; if that can't be started, such a line is on stderr after the plan's mark, and the status is 125.
What runs here is hostile. It can spoil this VM, whose results nothing but this Dockerfile uses.
"""

import json
import os
import signal
import stat
import struct
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
# Isolated Python looks nowhere else for these.
sys.path.insert(0, HERE)

import step_copy
from step_root import (
    CACHES,
    CLONE_NEWIPC,
    CLONE_NEWNET,
    CLONE_NEWNS,
    CLONE_NEWPID,
    CLONE_NEWUTS,
    CONTEXT,
    DETAIL_CHARACTERS,
    MS_BIND,
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    MS_REMOUNT,
    ROOT,
    SCRATCH,
    STAGE,
    Failed,
    call,
    from_errno,
    make_directories,
    mount,
    resolve,
    sync,
    user_of,
)

# The disk of the default environment.
SYSTEM = "/dev/vda"

MKFS = [
    os.path.join(HERE, "mkfs.erofs"),
    "--quiet",
    # Files keep their own times: Python compares those of its bytecode.
    "-T0",
    "--mkfs-time",
    "-U6e657572-6f76-4973-8f72-000000000004",
]
SUPERBLOCK_AT = 1024
SUPERBLOCK_MAGIC = 0xE0F5E1E2

NOT_STARTED = 125

def main():
    plan = json.loads(read_exactly(int(sys.argv[1])))
    if plan["task"] == "run":
        sys.exit(run(plan))
    try:
        tasks = {
            "mount": mount_all,
            "receive": receive,
            "copy": step_copy.copy,
            "directory": directory,
            "pack": pack,
        }
        result = tasks[plan["task"]](plan)
        line = json.dumps(result)
    except Failed as failure:
        line = failure.verdict()
    except OSError as error:
        line = from_errno(error).verdict()
    print(line, flush=True)


def read_exactly(length):
    """Reads no further: the archive follows on stdin."""
    text = b""
    while len(text) < length:
        piece = os.read(0, length - len(text))
        if not piece:
            raise SystemExit("the plan is cut off")
        text += piece
    return text


# mount: the disks become the stage's root and its sources


def mount_all(plan):
    os.makedirs(STAGE, exist_ok=True)
    scratch(plan["scratch"], SCRATCH, 0)
    lower = base(plan["base"], f"{STAGE}/base")
    for name in ("upper", "work"):
        os.makedirs(f"{SCRATCH}/{name}", exist_ok=True)
    os.makedirs(ROOT)
    layers = f"lowerdir={lower},upperdir={SCRATCH}/upper,workdir={SCRATCH}/work"
    mount("overlay", ROOT, "overlay", MS_NOATIME, layers)
    if plan["base"] == SYSTEM:
        # In that image root owns every file; each boot does the same (guest/init.c).
        os.chown(f"{ROOT}/home/user", 1000, 1000)
    for number, source in enumerate(plan["sources"]):
        mount_source(source, number)
    if plan["caches"] is not None:
        scratch(plan["caches"], CACHES, MS_NODEV | MS_NOSUID)
    os.makedirs(f"{STAGE}/from", exist_ok=True)
    return {}


def scratch(device, target, flags):
    os.makedirs(target)
    mount(device, target, "ext4", MS_NOATIME | flags)


def base(device, target):
    os.makedirs(target)
    if device is not None:
        mount(device, target, "erofs", MS_RDONLY)
    return target


def mount_source(source, number):
    """Mounts the result of another stage, its base under its scratch disk, or an image."""
    target = f"{STAGE}/from/{number}"
    lower = base(source["base"], f"{STAGE}/from/{number}.base")
    os.makedirs(target)
    if source["scratch"] is None:
        mount(lower, target, None, MS_BIND)
        return
    upper = f"{STAGE}/from/{number}.scratch"
    os.makedirs(upper)
    mount(source["scratch"], upper, "ext4", MS_RDONLY)
    if os.path.isdir(f"{upper}/upper"):
        lower = f"{upper}/upper:{lower}"
    else:
        # An overlay without an upper directory needs two lower ones.
        os.makedirs(f"{STAGE}/empty", exist_ok=True)
        lower = f"{lower}:{STAGE}/empty"
    mount("overlay", target, "overlay", MS_RDONLY, f"lowerdir={lower}")


# run


def run(plan):
    mark = plan["mark"]
    made = []
    try:
        user = user_of(ROOT, plan["user"])
        make_directories(resolve(ROOT, plan["workdir"]))
        made = make_targets(plan)
        status = run_in_namespaces(plan, user)
    except (Failed, OSError) as error:
        failure = error if isinstance(error, Failed) else from_errno(error)
        os.write(2, f"{mark}{failure.verdict()}\n".encode())
        status = NOT_STARTED
    finally:
        remove_secrets(plan)
        subprocess.run(["rm", "-rf", CONTEXT], check=False)
        remove_targets(made)
        sync()
    return status


FILES = ("/etc/resolv.conf", "/etc/hosts")
MOUNTED = ("/proc", "/sys", "/dev")


def targets_of(plan):
    """Yields the mount points, and whether each is a directory."""
    for path in MOUNTED:
        yield path, True
    for path in [*FILES, *plan["files"]]:
        if os.path.exists(path):
            yield path, False
    for each in plan["mounts"]:
        if each["target"] is not None:
            yield absolute(plan, each["target"]), each["type"] != "secret" and not is_file(each)


def absolute(plan, path):
    return path if path.startswith("/") else f"{plan['workdir']}/{path}"


def receive(_plan):
    step_copy.receive([])
    return {}


def source_of(each):
    if each["source"] is None:
        return resolve(CONTEXT, each["path"])
    return resolve(f"{STAGE}/from/{each['source']}", each["path"])


def is_file(each):
    return each["type"] == "bind" and not os.path.isdir(source_of(each))


def make_targets(plan):
    """Makes missing mount points. They are removed after the command, since they are no part of the result."""
    made = []
    for path, is_directory in targets_of(plan):
        at = resolve(ROOT, path)
        if os.path.lexists(at):
            continue
        made += [(each, True) for each in make_directories(at if is_directory else os.path.dirname(at))]
        if not is_directory:
            os.close(os.open(at, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
            made.append((at, False))
    return made


def remove_targets(made):
    for path, is_directory in reversed(made):
        try:
            if is_directory:
                os.rmdir(path)
            elif os.lstat(path).st_size == 0:
                os.unlink(path)
        except OSError:
            # The command has put something there.
            pass


def remove_secrets(plan):
    """Removes the secrets: a later step that escapes from its root would find them."""
    for each in plan["mounts"]:
        if each["type"] == "secret":
            os.unlink(each["file"])


def run_in_namespaces(plan, user):
    told, tell = os.pipe2(os.O_CLOEXEC)
    first = os.fork()
    if first == 0:
        try:
            spaces = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS
            call("unshare", spaces | (0 if plan["network"] else CLONE_NEWNET))
            # In the new pid namespace: with its process 1 all of its processes end.
            second = os.fork()
            if second == 0:
                start(plan, user)
            _, status = os.waitpid(second, 0)
            os._exit(exit_of(status))
        except (Failed, OSError) as error:
            failure = error if isinstance(error, Failed) else from_errno(error)
            os.write(tell, failure.verdict().encode())
        finally:
            os._exit(NOT_STARTED)
    os.close(tell)
    with os.fdopen(told, "rb") as pipe:
        problem = pipe.read(4 * DETAIL_CHARACTERS).decode("utf-8", "replace")
    _, status = os.waitpid(first, 0)
    if problem:
        raise Failed(**json.loads(problem))
    return exit_of(status)


def exit_of(status):
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def start(plan, user):
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    environment = mount_for_run(plan)
    os.chroot(ROOT)
    os.chdir(plan["workdir"])
    environment.setdefault("HOME", user.home)
    argv = plan["argv"]
    if plan["program"] is not None:
        argv = ["/dev/neurovisor-step"]
        descriptor = os.open(argv[0], os.O_CREAT | os.O_WRONLY, 0o755)
        os.write(descriptor, plan["program"].encode())
        os.close(descriptor)
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.setgroups(user.groups)
    os.setgid(user.gid)
    os.setuid(user.uid)
    # Python ignores it, and a command would inherit that.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(argv[0], argv, environment)
    except OSError as error:
        raise Failed("failed", f"{argv[0]}: {os.strerror(error.errno or 5)}") from None


def mount_for_run(plan):
    environment = dict(plan["env"])
    safe = MS_NOSUID | MS_NODEV | MS_NOEXEC
    mount("proc", resolve(ROOT, "/proc"), "proc", safe)
    bind("/sys", resolve(ROOT, "/sys"), read_only=True)
    mount_devices(resolve(ROOT, "/dev"))
    for path in [*FILES, *plan["files"]]:
        if os.path.exists(path):
            bind(os.path.realpath(path), resolve(ROOT, path))
    for number, each in enumerate(plan["mounts"]):
        target = None if each["target"] is None else resolve(ROOT, absolute(plan, each["target"]))
        if each["type"] == "cache":
            place = f"{CACHES}/{each['directory']}"
            if not os.path.isdir(place):
                os.mkdir(place)
                os.chmod(place, each["mode"])
                os.chown(place, each["uid"], each["gid"])
            bind(place, target, read_only=each["readonly"])
        elif each["type"] == "tmpfs":
            mount("tmpfs", target, "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
        elif each["type"] == "bind":
            bind(source_of(each), target, read_only=True)
        else:
            mount_secret(each, target, number, environment)
    return environment


def bind(source, target, read_only=False):
    mount(source, target, None, MS_BIND | (MS_REC if os.path.isdir(source) else 0))
    if read_only:
        mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def mount_secret(each, target, number, environment):
    """Puts the secret into memory: each has its own file system in this command's mount namespace."""
    with open(each["file"], "rb") as file:
        value = file.read()
    if each["variable"] is not None:
        environment[each["variable"]] = value.decode("utf-8", "surrogateescape")
    if target is None:
        return
    place = f"{STAGE}/secret{number}"
    os.makedirs(place, exist_ok=True)
    mount("tmpfs", place, "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=700,size=1m")
    path = f"{place}/value"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    os.write(descriptor, value)
    os.close(descriptor)
    os.chown(path, each["uid"], each["gid"])
    os.chmod(path, each["mode"])
    bind(path, target)


DEVICES = {"null": (1, 3), "zero": (1, 5), "full": (1, 7), "random": (1, 8), "urandom": (1, 9), "tty": (5, 0)}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}


def mount_devices(dev):
    mount("tmpfs", dev, "tmpfs", MS_NOSUID, "mode=755,size=16m")
    os.umask(0)
    for name, (major, minor) in DEVICES.items():
        os.mknod(f"{dev}/{name}", stat.S_IFCHR | 0o666, os.makedev(major, minor))
    for name, target in LINKS.items():
        os.symlink(target, f"{dev}/{name}")
    os.mkdir(f"{dev}/pts")
    mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=666,mode=620")
    os.mkdir(f"{dev}/shm")
    mount("tmpfs", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777,size=64m")
    os.umask(0o022)


# directory


def directory(plan):
    make_directories(resolve(ROOT, plan["path"]))
    sync()
    return {}


# pack


def pack(plan):
    with open("/tmp/mkfs.log", "w+b") as log:
        status = subprocess.run([*MKFS, plan["output"], ROOT], stdout=log, stderr=log, check=False)
        log.seek(0)
        words = log.read(1 << 16).decode("utf-8", "replace").strip()
    if status.returncode == -9:
        raise Failed("too_large", "it has more files than the VM has memory for")
    if status.returncode != 0:
        full = "No space left on device" in words
        code = "too_large" if full else "disk" if "Input/output error" in words else "invalid"
        raise Failed(code, words or f"mkfs.erofs ended with {status.returncode}")
    with open(plan["output"], "rb") as disk:
        disk.seek(SUPERBLOCK_AT)
        superblock = disk.read(128)
    (magic,) = struct.unpack_from("<I", superblock, 0)
    (blocks,) = struct.unpack_from("<I", superblock, 36)
    if magic != SUPERBLOCK_MAGIC:
        raise Failed("invalid", "there is no image on the disk")
    return {"bytes": blocks << superblock[12]}


main()
