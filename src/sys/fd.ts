/** File descriptors: read, write, eventfd, memfd. The caller must close descriptors that these functions return. */
import { close, fstatSync, readlinkSync } from 'node:fs';
import { STAT_BLOCK_BYTES } from '../base/units.ts';
import { check, libc, orNegativeErrno } from './libc.ts';
import { allocateNative } from './memory.ts';

const cClose = libc.func('int close(int fd)');
const cRead = libc.func('intptr_t read(int fd, uintptr_t at, size_t bytes)');
const cWrite = libc.func('intptr_t write(int fd, uintptr_t at, size_t bytes)');
const cReadv = libc.func('intptr_t readv(int fd, uintptr_t iovec, int count)');
const cWritev = libc.func('intptr_t writev(int fd, uintptr_t iovec, int count)');
const cWriteBuffer = libc.func('intptr_t write(int fd, const void *bytes, size_t length)');
const cEventfd = libc.func('int eventfd(unsigned int value, int flags)');
const cMemfd = libc.func('int memfd_create(const char *name, unsigned int flags)');
const cFtruncate = libc.func('int ftruncate(int fd, int64_t bytes)');
const cFcntl = libc.func('int fcntl(int fd, int command, int value)');
const cLseek = libc.func('int64_t lseek(int fd, int64_t offset, int whence)');

const EFD_CLOEXEC_NONBLOCK = 0o2004000;
const MFD_CLOEXEC_ALLOW_SEALING = 3;
const F_ADD_SEALS = 1033;
const F_GET_SEALS = 1034;
const F_SEAL_WRITE = 8;
const F_SEAL_SHRINK_GROW = 6;
const SEEK_END = 2;

/** Closing can't fail in a way that a caller could act on (close(2), "dealing with error returns"). */
export function closeFd(fd: number): void {
  cClose(fd);
}

/**
 * Closes on a thread of Node's pool: the last close of a memory file frees its pages, which takes a second for some
 * gigabytes.
 */
export async function closeInPool(fd: number): Promise<void> {
  await new Promise<void>((resolve) => close(fd, () => resolve()));
}

/** Bytes of a memory file's allocated pages: holes take no memory. @throws a Node error */
export function usedBytes(fd: number): number {
  return fstatSync(fd).blocks * STAT_BLOCK_BYTES;
}

/** @returns bytes read, 0 at the end, or −errno */
export function read(fd: number, address: number, bytes: number): number {
  return orNegativeErrno(cRead(fd, address, bytes));
}

/** @returns bytes written or −errno */
export function write(fd: number, address: number, bytes: number): number {
  return orNegativeErrno(cWrite(fd, address, bytes));
}

/** @param iovecAddress address of `count` struct iovec. @returns bytes read, 0 at the end, or −errno */
export function readv(fd: number, iovecAddress: number, count: number): number {
  return orNegativeErrno(cReadv(fd, iovecAddress, count));
}

/** @param iovecAddress address of `count` struct iovec. @returns bytes written or −errno */
export function writev(fd: number, iovecAddress: number, count: number): number {
  return orNegativeErrno(cWritev(fd, iovecAddress, count));
}

/** Writes from JavaScript memory. @returns bytes written or −errno */
export function writeBytes(fd: number, bytes: Uint8Array): number {
  return orNegativeErrno(cWriteBuffer(fd, bytes, bytes.length));
}

/** A non-blocking event counter. @throws SyscallError */
export function createEventFd(): number {
  return check(cEventfd(0, EFD_CLOEXEC_NONBLOCK), 'eventfd');
}

/** Touches only the descriptor: asking another kind of file for events, or for its state, could block. */
export function isEventFd(fd: number): boolean {
  // The path of a file starts with a slash.
  return readlinkSync(`/proc/self/fd/${fd}`) === 'anon_inode:[eventfd]';
}

const one = allocateNative(8);
new BigUint64Array(one.buffer)[0] = 1n;

/**
 * Adds one to an event counter that only this process holds; for a VMM's, use `EventSignaler`. A full counter (EAGAIN)
 * is signaled already, so nothing is lost.
 */
export function signalEventFd(fd: number): void {
  cWrite(fd, one.address, 8);
}

const counter = allocateNative(8);

/** Resets an event counter to 0. */
export function drainEventFd(fd: number): void {
  cRead(fd, counter.address, 8);
}

/** Memory that can be mapped and passed. @throws SyscallError */
export function createMemFd(name: string, bytes: number): number {
  const fd = check(cMemfd(name, MFD_CLOEXEC_ALLOW_SEALING), 'memfd_create');
  check(cFtruncate(fd, bytes), 'ftruncate');
  return fd;
}

/** Size in bytes of the file behind a seekable fd, or −errno. Moves its file position. */
export function fileSize(fd: number): number {
  return orNegativeErrno(Number(cLseek(fd, 0, SEEK_END)));
}

/** Fixes the size of a memfd permanently. @throws SyscallError */
export function sealSize(fd: number): void {
  check(cFcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK_GROW), 'fcntl F_ADD_SEALS');
}

/** Makes a memfd unwritable permanently; no process may have it mapped for writing. @throws SyscallError */
export function sealContent(fd: number): void {
  check(cFcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK_GROW | F_SEAL_WRITE), 'fcntl F_ADD_SEALS');
}

/** Whether the file's size and content can no longer change. False for files other than memfds. */
export function isSealed(fd: number): boolean {
  const all = F_SEAL_SHRINK_GROW | F_SEAL_WRITE;
  return (Math.max(0, cFcntl(fd, F_GET_SEALS, 0)) & all) === all;
}

/** Identifies an open file on this host (fstat(2)), unlike its descriptor's number. */
export interface FileIdentity {
  readonly dev: bigint;
  readonly ino: bigint;
}

/** @throws an errno error if the descriptor is not open */
export function fileIdentity(fd: number): FileIdentity {
  const { dev, ino } = fstatSync(fd, { bigint: true });
  return { dev, ino };
}
