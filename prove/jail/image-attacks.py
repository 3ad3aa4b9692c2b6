"""Root of a guest that tries to write to the golden image, in more than a hundred ways.

Prints a line of JSON per try: {"what": way of writing, "how": way of opening, "seen": "WRITTEN" | "refused" | fault}.
"refused" is an error of the operating system; any other fault of a try is reported, and counts as a fault of the proof.
The ways of writing are first tried on a file of the guest's own disk, where they must succeed.
"""
import ctypes
import fcntl
import json
import mmap
import os
import stat
import struct

DEVICE = "/dev/vda"
BLOCK = 4096
OWN_FILE = "/var/tmp/attack"
SOURCE = "/var/tmp/attack-source"
MOUNT = "/run/attack"
# linux/fs.h, linux/blkpg.h, scsi/sg.h
BLKROSET, BLKFLSBUF, BLKRRPART, BLKPG = 0x125D, 0x1261, 0x125F, 0x1269
BLKDISCARD, BLKSECDISCARD, BLKZEROOUT, SG_IO = 0x1277, 0x127D, 0x127F, 0x2285
BLKPG_ADD_PARTITION = 1
MS_REMOUNT, MS_BIND = 32, 4096
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE = 1, 2, 16
# asm/unistd_64.h
SYS_IO_SETUP, SYS_IO_GETEVENTS, SYS_IO_SUBMIT, SYS_SWAPON = 206, 208, 209, 167
IOCB_CMD_PWRITE = 1

libc = ctypes.CDLL(None, use_errno=True)
page = mmap.mmap(-1, BLOCK)
page.write(b"hostile!" * (BLOCK // 8))


def checked(result):
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def by_write(fd, at):
    os.lseek(fd, at, os.SEEK_SET)
    os.writev(fd, [page])


def by_pwrite(fd, at):
    os.pwritev(fd, [page], at)


def by_synced_pwrite(fd, at):
    os.pwritev(fd, [page], at, os.RWF_DSYNC)


def by_mapping(fd, at):
    shared = mmap.mmap(fd, BLOCK, mmap.MAP_SHARED, offset=at)
    shared[:8] = b"hostile!"
    shared.flush()
    shared.close()


def by_sendfile(fd, at):
    source = os.open(SOURCE, os.O_RDONLY)
    try:
        os.lseek(fd, at, os.SEEK_SET)
        os.sendfile(fd, source, 0, BLOCK)
    finally:
        os.close(source)


def by_splice(fd, at):
    reader, writer = os.pipe()
    try:
        os.writev(writer, [page])
        os.splice(reader, fd, BLOCK, offset_dst=at)
    finally:
        os.close(reader)
        os.close(writer)


def by_aio(fd, at):
    context = ctypes.c_ulong(0)
    checked(libc.syscall(SYS_IO_SETUP, 1, ctypes.byref(context)))
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    fields = (0, 0, 0, IOCB_CMD_PWRITE, 0, fd, address, BLOCK, at, 0, 0, 0)
    request = ctypes.create_string_buffer(struct.pack("<QIiHhIQQqQII", *fields))
    requests = (ctypes.c_void_p * 1)(ctypes.addressof(request))
    checked(libc.syscall(SYS_IO_SUBMIT, context, 1, requests))
    event = ctypes.create_string_buffer(32)
    checked(libc.syscall(SYS_IO_GETEVENTS, context, 1, 1, event, None))
    result = struct.unpack("<QQqq", event.raw)[2]
    if result < 0:
        raise OSError(-result, os.strerror(-result))


def by_hole(fd, at):
    allocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, at)


def by_zeroes(fd, at):
    allocate(fd, FALLOC_ZERO_RANGE, at)


def allocate(fd, mode, at):
    checked(libc.fallocate(fd, mode, ctypes.c_long(at), ctypes.c_long(BLOCK)))


WAYS = {
    "write": by_write,
    "pwritev": by_pwrite,
    "pwritev2, synced": by_synced_pwrite,
    "a shared mapping": by_mapping,
    "sendfile": by_sendfile,
    "splice": by_splice,
    "asynchronous I/O": by_aio,
    "fallocate, a hole": by_hole,
    "fallocate, zeroes": by_zeroes,
}


def plainly():
    return os.open(DEVICE, os.O_RDWR)


def past_the_cache():
    return os.open(DEVICE, os.O_RDWR | os.O_DIRECT)


def by_own_node():
    path = "/dev/attack"
    if not os.path.exists(path):
        os.mknod(path, 0o600 | stat.S_IFBLK, os.stat(DEVICE).st_rdev)
    return os.open(path, os.O_RDWR)


def by_proc():
    reading = os.open(DEVICE, os.O_RDONLY)
    try:
        return os.open(f"/proc/self/fd/{reading}", os.O_RDWR)
    finally:
        os.close(reading)


def declared_writable():
    reading = os.open(DEVICE, os.O_RDONLY)
    try:
        fcntl.ioctl(reading, BLKROSET, struct.pack("i", 0))
    finally:
        os.close(reading)
    return os.open(DEVICE, os.O_RDWR)


OPENINGS = {
    "its device": plainly,
    "past the page cache": past_the_cache,
    "a device file of its own": by_own_node,
    "through /proc/self/fd": by_proc,
    "declared writable (BLKROSET)": declared_writable,
}


def device_size():
    fd = os.open(DEVICE, os.O_RDONLY)
    try:
        return os.lseek(fd, 0, os.SEEK_END)
    finally:
        os.close(fd)


def request(number, argument, then=None):
    def attempt():
        fd = declared_writable()
        try:
            fcntl.ioctl(fd, number, argument)
            if then is not None:
                then()
        finally:
            os.close(fd)

    return attempt


def truncate():
    fd = declared_writable()
    try:
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def write_partition():
    """A partition over the whole device, which is then written to."""
    partition = ctypes.create_string_buffer(
        struct.pack("<qqi", 0, device_size(), 1) + bytes(132)
    )
    argument = struct.pack("<iiiiQ", BLKPG_ADD_PARTITION, 0, len(partition), 0, ctypes.addressof(partition))
    fd = os.open(DEVICE, os.O_RDWR)
    try:
        fcntl.ioctl(fd, BLKPG, argument)
    finally:
        os.close(fd)
    fd = os.open("/dev/vda1", os.O_RDWR)
    try:
        by_pwrite(fd, 0)
        os.fsync(fd)
    finally:
        os.close(fd)


def write_text(path, text):
    def attempt():
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, text)
        finally:
            os.close(fd)

    return attempt


def mount(source, target, kind, flags, data=None):
    def encode(text):
        return None if text is None else text.encode()

    arguments = (encode(source), encode(target), encode(kind), ctypes.c_ulong(flags), encode(data))
    checked(libc.mount(*arguments))


def mount_writable(kind):
    def attempt():
        mount(DEVICE, MOUNT, kind, 0)
        try:
            os.mkdir(f"{MOUNT}/attack")
        finally:
            libc.umount2(MOUNT.encode(), 0)

    return attempt


def remounted(flags):
    def attempt():
        mount(DEVICE, MOUNT, "erofs", os.ST_RDONLY)
        try:
            mount(DEVICE, MOUNT, "erofs", flags)
            os.mkdir(f"{MOUNT}/attack")
        finally:
            libc.umount2(MOUNT.encode(), 0)

    return attempt


def overlay_upon_it():
    mount(DEVICE, MOUNT, "erofs", os.ST_RDONLY)
    try:
        directories = f"lowerdir=/usr,upperdir={MOUNT}/opt,workdir={MOUNT}/mnt"
        mount("overlay", "/mnt", "overlay", 0, directories)
        os.mkdir("/mnt/attack")
    finally:
        libc.umount2(b"/mnt", 0)
        libc.umount2(MOUNT.encode(), 0)


def swap_upon_it():
    checked(libc.syscall(SYS_SWAPON, DEVICE.encode(), 0))


RANGE = struct.pack("QQ", 0, BLOCK)
OTHERS = {
    ("truncate", "open with O_TRUNC, then ftruncate"): truncate,
    ("a request to the device", "discard"): request(BLKDISCARD, RANGE),
    ("a request to the device", "secure discard"): request(BLKSECDISCARD, RANGE),
    ("a request to the device", "write zeroes"): request(BLKZEROOUT, RANGE),
    ("a request to the device", "a SCSI command (SG_IO)"): request(SG_IO, bytes(88)),
    ("a partition", "over the whole device"): write_partition,
    ("sysfs", "ro"): write_text("/sys/block/vda/ro", b"0"),
    ("mount for writing", "erofs"): mount_writable("erofs"),
    ("mount for writing", "ext4"): mount_writable("ext4"),
    ("mount for writing", "remounted"): remounted(MS_REMOUNT),
    ("mount for writing", "remounted as a bind mount"): remounted(MS_REMOUNT | MS_BIND),
    ("mount for writing", "upper directory of an overlay"): overlay_upon_it,
    ("swap", "on the device"): swap_upon_it,
}


def report(what, how, attempt):
    try:
        attempt()
        seen = "WRITTEN"
    except OSError:
        seen = "refused"
    except Exception as fault:
        seen = f"{type(fault).__name__}: {fault}"
    print(json.dumps({"what": what, "how": how, "seen": seen}))


def written(way, opening, at):
    def attempt():
        fd = opening()
        try:
            way(fd, at)
            os.fsync(fd)
        finally:
            os.close(fd)

    return attempt


def own_file():
    return os.open(OWN_FILE, os.O_RDWR | os.O_CREAT)


def main():
    os.makedirs(MOUNT, exist_ok=True)
    with open(SOURCE, "wb") as file:
        file.write(page[:])
    with open(OWN_FILE, "wb") as file:
        file.write(bytes(2 * BLOCK))
    for name, way in WAYS.items():
        report(f"control: {name}", "a file of its own", written(way, own_file, BLOCK))
    size = device_size()
    places = {"start": 0, "end": size - BLOCK}
    for name, way in WAYS.items():
        for how, opening in OPENINGS.items():
            for place, at in places.items():
                report(name, f"{how}, {place}", written(way, opening, at))
    for (what, how), attempt in OTHERS.items():
        report(what, how, attempt)


main()
