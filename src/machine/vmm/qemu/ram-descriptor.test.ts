import { openSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { closeFd, createMemFd, fileIdentity } from '../../../sys/fd.ts';
import { RamDescriptor, UnexpectedDescriptor } from './ram-descriptor.ts';

/** Searches this process for the files that a VMM would have opened. */
describe('RamDescriptor', () => {
  it('expects the number that it found, plus the number of extra disks', () => {
    const file = createMemFd('ram', 4096);
    const identity = fileIdentity(file);
    const descriptor = new RamDescriptor('tcg');
    expect(new RamDescriptor('kvm').expected(0)).toBe(descriptor.expected(0) + 2);
    const check = (disks: number, spared = descriptor.expected(disks)): void =>
      descriptor.check(process.pid, identity, disks, spared);
    expect(() => check(2)).toThrow(UnexpectedDescriptor);
    expect(descriptor.expected(2)).toBe(file);
    expect(descriptor.expected(3)).toBe(file + 1);
    expect(() => check(2)).not.toThrow();
    // A start whose filter was made before another start found the number.
    expect(() => check(2, 12)).toThrow(UnexpectedDescriptor);
    expect(() => check(1)).toThrow(UnexpectedDescriptor);
    closeFd(file);
    expect(() => check(1)).toThrow(/was not found/);
  });

  it('refuses a file that is open twice, and a missing process', () => {
    const file = createMemFd('ram', 4096);
    const twice = openSync(`/proc/self/fd/${file}`, 'r+');
    const identity = fileIdentity(file);
    const descriptor = new RamDescriptor('tcg');
    const check = (pid: number | null): void => descriptor.check(pid, identity, 0, 12);
    for (const pid of [process.pid, null])
      expect(() => check(pid)).toThrow(expect.objectContaining({ code: 'vmm_command_failed' }));
    expect(descriptor.expected(0)).toBe(12);
    for (const fd of [file, twice]) closeFd(fd);
  });
});
