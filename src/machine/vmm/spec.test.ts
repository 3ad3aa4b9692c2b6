import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../base/assert.ts';
import type { VmSpec } from './driver.ts';
import { checkSpec } from './spec.ts';

const spec: VmSpec = {
  id: 'a1',
  dir: '/run/nv/a1',
  cpus: 2,
  memoryMib: 64,
  kernelPath: '/cache/my kernel, v2/vmlinux',
  rootImagePath: '/cache/root.erofs',
  overlayPath: '/run/nv/a1/disk',
  guestCid: 3,
  channelPath: '/run/nv/a1/v',
  console: 'log',
};

describe('checkSpec', () => {
  it('checkSpec: accepts the limit values, and paths with commas and spaces', () => {
    checkSpec(spec, 2);
    checkSpec({ ...spec, memoryMib: 65_536, guestCid: 2 ** 32 - 2 }, 2);
    checkSpec({ ...spec, channelPath: `/${'x'.repeat(95)}`, dir: `/${'d'.repeat(100)}` }, 2);
    checkSpec({ ...spec, bootArgs: ['debug', 'printk.time=1', 'neurovisor.warm=json,re'] }, 2);
  });
  it.each<[Partial<VmSpec>, string]>([
    [{ id: '' }, 'id'],
    [{ id: 'A' }, 'id'],
    [{ id: 'a\n' }, 'id'],
    [{ id: 'a'.repeat(65) }, 'id'],
    [{ cpus: 3 }, 'cpus'],
    [{ cpus: 1.5 }, 'cpus'],
    [{ cpus: Number.NaN }, 'cpus'],
    [{ channelPath: `/${'x'.repeat(96)}` }, 'channelPath'],
    [{ channelPath: `/${'ü'.repeat(48)}` }, 'channelPath'],
    [{ dir: `/${'d'.repeat(101)}` }, 'dir'],
    [{ dir: 'run' }, 'dir'],
    [{ kernelPath: '-kernel' }, 'kernelPath'],
    [{ rootImagePath: '/a\0b' }, 'rootImagePath'],
    [{ overlayPath: '' }, 'overlayPath'],
    [{ bootArgs: [''] }, 'bootArgs'],
    [{ bootArgs: ['--'] }, 'bootArgs'],
    [{ bootArgs: ['quiet"'] }, 'bootArgs'],
    [{ bootArgs: ['rw'] }, 'bootArgs'],
    [{ bootArgs: ['neurovisor.x=a b'] }, 'bootArgs'],
    [{ bootArgs: [`loglevel=${'7'.repeat(300)}`] }, 'bootArgs'],
    [{ bootArgs: Array.from({ length: 33 }, () => 'debug') }, 'bootArgs'],
  ])('checkSpec: refuses %j and names the field', (wrong, field) => {
    expect(() => checkSpec({ ...spec, ...wrong }, 2)).toThrow(`the VM's ${field} can't be used`);
  });
  it.each<[Partial<VmSpec>, string]>([
    [{ memoryMib: 63 }, 'memoryMib is 63'],
    [{ memoryMib: 65_537 }, 'memoryMib is 65537'],
    [{ balloonMib: 1 }, 'balloonMib is 1'],
    [{ guestCid: 2 }, 'guestCid is 2'],
    [{ guestCid: 2 ** 32 - 1 }, 'guestCid is 4294967295'],
  ])('checkSpec: asserts limits that the request was checked for: %j', (wrong, message) => {
    expect(() => checkSpec({ ...spec, ...wrong }, 2)).toThrow(new AssertionError(message));
  });
});
