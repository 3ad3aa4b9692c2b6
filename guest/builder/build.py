"""Builds the EROFS image of a layer, or of several merged, in a VM of its own.

    build.py '{"task": "layer", …}'    compressed tar on a disk ─► tar ─┬─► SHA-256, size
                                                                     └─► mkfs.erofs ─► output disk
    build.py '{"task": "merge", …}'    layers one behind the other on a disk ─► mkfs.erofs ─► output disk

Prints one line of JSON: `{"bytes": n}`, the length of the image on the output disk, or `{"code": c, "detail": text}`.
Layers are hostile. Whatever they do to this VM, the host takes only that line, and the output up to that length.
"""

import ctypes
import fcntl
import hashlib
import json
import os
import struct
import subprocess
import sys
import zlib

CHUNK = 1 << 20
DETAIL_CHARACTERS = 1000
HERE = os.path.dirname(os.path.abspath(__file__))
MKFS = [
    os.path.join(HERE, "mkfs.erofs"),
    "--quiet",
    # The same input gives the same image. Files keep their own times: Python compares those of its bytecode.
    "-T0",
    "--mkfs-time",
    "-U6e657572-6f76-4973-8f72-000000000002",
]
# Data goes to the disk as it comes, instead of through a temporary file.
OF_TAR = ["--tar=f", "--aufs", "--sort=none"]
OF_LAYERS = ["--clean=data", "--ovlfs-strip=1"]

# <linux/blkpg.h>
BLKPG = 0x1269
BLKPG_ADD_PARTITION = 1
SUPERBLOCK_AT = 1024
SUPERBLOCK_MAGIC = 0xE0F5E1E2


class Failed(Exception):
    def __init__(self, code, detail):
        super().__init__(detail)
        self.code = code


def main():
    try:
        plan = json.loads(sys.argv[1])
        verdict = {"bytes": {"layer": layer, "merge": merge}[plan["task"]](plan)}
    except Failed as failure:
        verdict = {"code": failure.code, "detail": str(failure)[-DETAIL_CHARACTERS:]}
    print(json.dumps(verdict), flush=True)


def layer(plan):
    mkfs = Mkfs([*MKFS, *OF_TAR, plan["output"]], stdin=subprocess.PIPE)
    digest = hashlib.sha256()
    size = 0
    try:
        for chunk in decompressed(plan["input"], plan["bytes"], plan["compression"]):
            size += len(chunk)
            if size > plan["bytesMax"]:
                raise Failed("too_large", f"it unpacks to more than {plan['bytesMax']} bytes")
            digest.update(chunk)
            mkfs.feed(chunk)
    except BaseException:
        mkfs.kill()
        raise
    mkfs.finish()
    if digest.hexdigest() != plan["diffId"]:
        raise Failed("digest", f"its content has the digest sha256:{digest.hexdigest()}")
    return image_bytes(plan["output"])


def merge(plan):
    with open(plan["input"], "rb") as disk:
        for number, (offset, size) in enumerate(plan["parts"], 1):
            add_partition(disk, number, offset, size)
    parts = [f"{plan['input']}{number}" for number in range(1, len(plan["parts"]) + 1)]
    mkfs = Mkfs([*MKFS, *OF_LAYERS, plan["output"], *parts], stdin=subprocess.DEVNULL)
    mkfs.finish()
    return image_bytes(plan["output"])


def decompressed(path, left, compression):
    with open(path, "rb", buffering=0) as disk:
        compressed = pieces(disk, left)
        if compression == "none":
            yield from compressed
        elif compression == "gzip":
            yield from gunzip(compressed)
        else:
            yield from unzstd(compressed)


def pieces(disk, left):
    while left > 0:
        piece = disk.read(min(CHUNK, left))
        if not piece:
            raise Failed("invalid", "the disk is too short")
        left -= len(piece)
        yield piece


def gunzip(compressed):
    """Several members one behind the other, and zeros after them, as gzip(1) takes them."""
    stream = None
    members = 0
    for data in compressed:
        holds_back = False
        while data or holds_back:
            if stream is None:
                if members > 0:
                    data = data.lstrip(b"\0")
                if not data:
                    break
                stream = zlib.decompressobj(zlib.MAX_WBITS | 16)
                members += 1
            try:
                out = stream.decompress(data, CHUNK)
            except zlib.error as error:
                raise Failed("invalid", f"it is not gzip: {error}") from None
            data = stream.unconsumed_tail
            holds_back = len(out) == CHUNK
            if stream.eof:
                data, stream, holds_back = stream.unused_data, None, False
            if out:
                yield out
    if stream is not None or members == 0:
        raise Failed("invalid", "it is not gzip: it is cut off")


def unzstd(compressed):
    program = subprocess.Popen(
        [os.path.join(HERE, "unzstd")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    feeder = os.fork()
    if feeder == 0:
        feed(program.stdin, compressed)
    program.stdin.close()
    ended = False
    try:
        while chunk := os.read(program.stdout.fileno(), CHUNK):
            yield chunk
        ended = True
    finally:
        # Left early: the feeder has copies of the pipes, so neither would see that nobody reads.
        if not ended:
            program.kill()
        program.stdout.close()
        words = program.stderr.read(DETAIL_CHARACTERS).decode("utf-8", "replace")
        status = program.wait()
        os.waitpid(feeder, 0)
    if status != 0:
        raise Failed("invalid", f"it is not zstd: {words.strip()}")


def feed(stdin, compressed):
    """In a child, which ends."""
    try:
        for piece in compressed:
            stdin.write(piece)
        stdin.close()
    finally:
        os._exit(0)


class Mkfs:
    def __init__(self, argv, stdin):
        self.words = open("/tmp/mkfs.log", "w+b")
        self.process = subprocess.Popen(argv, stdin=stdin, stdout=self.words, stderr=self.words)
        self.hears = True

    def feed(self, chunk):
        """It stops reading at the end of the archive; what follows only counts for the digest."""
        if not self.hears:
            return
        try:
            self.process.stdin.write(chunk)
        except BrokenPipeError:
            self.hears = False
            self.check()

    def finish(self):
        try:
            if self.process.stdin is not None:
                self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.check()

    def check(self):
        status = self.process.wait()
        if status == 0:
            return
        if status == -9:
            raise Failed("too_large", "it has more files than the VM has memory for")
        self.words.seek(0)
        words = self.words.read(1 << 16).decode("utf-8", "replace").strip()
        full = "No space left on device" in words
        if "Not a directory" in words and "symbolic link" not in words:
            words = "an entry lies below a symbolic link or a file of the same layer"
        if "Input/output error" in words:
            raise Failed("disk", words)
        raise Failed("too_large" if full else "invalid", words or f"mkfs.erofs ended with {status}")

    def kill(self):
        self.process.kill()
        self.process.wait()


def add_partition(disk, number, offset, size):
    """Names a part of a disk that has no partition table: `/dev/vdX1` and so on."""
    partition = ctypes.create_string_buffer(struct.pack("qqi64s64s4x", offset, size, number, b"", b""))
    request = struct.pack("iiiP", BLKPG_ADD_PARTITION, 0, len(partition), ctypes.addressof(partition))
    fcntl.ioctl(disk, BLKPG, request)


def image_bytes(path):
    """EROFS: the number of blocks and their size are in the superblock."""
    with open(path, "rb") as disk:
        disk.seek(SUPERBLOCK_AT)
        superblock = disk.read(128)
    (magic,) = struct.unpack_from("<I", superblock, 0)
    (blocks,) = struct.unpack_from("<I", superblock, 36)
    if magic != SUPERBLOCK_MAGIC:
        raise Failed("invalid", "there is no image on the disk")
    return blocks << superblock[12]


main()
