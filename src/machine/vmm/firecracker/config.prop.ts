/** No untrusted text becomes a path, another setting or an argument of the kernel (S6). */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../../base/assert.ts';
import type { VmSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import { checkSpec } from '../spec.ts';
import { bootCalls, nicCall } from './config.ts';
import { jailerArgs } from './jail/jailer.ts';

const nasty = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 120 }),
  fc
    .array(fc.constantFrom(' ', '\n', '\0', '"', "'", '\\', '}', '=', '-', '/', '..', 'a', '%s'), { maxLength: 20 })
    .map((parts) => parts.join('')),
  fc.constantFrom('../../etc', 'init=/bin/sh', 'x pci=on', '-- --no-seccomp', 'a/../b', 'eth0\n'),
);
const harmless: VmSpec = {
  id: 'vm1',
  dir: '/run/vm1',
  cpus: 1,
  memoryMib: 256,
  kernelPath: '/k',
  rootImagePath: '/r',
  overlayPath: '/o',
  guestCid: 3,
  channelPath: '/run/vm1/v',
  console: 'log',
  bootArgs: [],
};
const disksOf = (path: fc.Arbitrary<string>) =>
  fc.array(fc.record({ path, access: fc.constantFrom('read', 'write') }), { maxLength: 10 });
const specs = fc
  .record(
    {
      id: nasty,
      cpus: fc.double(),
      memoryMib: fc.double(),
      guestCid: fc.double(),
      kernelPath: nasty.map((text) => `/${text}`),
      disks: disksOf(nasty),
      bootArgs: fc.array(fc.oneof(fc.constant('loglevel=7'), nasty), { maxLength: 3 }),
      nic: fc.record({ tapFd: fc.constant(-1), tapName: nasty, mac: nasty }),
    },
    { requiredKeys: [] },
  )
  .map((wrong): VmSpec => ({ ...harmless, ...wrong }));

const callsOf = (spec: VmSpec) => {
  const { cpus, memoryMib, guestCid, bootArgs = [], nic, disks = [] } = spec;
  const calls = bootCalls({
    cpus,
    memoryMib,
    guestCid,
    bootArgs,
    channelName: 'v',
    limits: {},
    disks,
    tracksDirtyPages: false,
    balloonMib: undefined,
  });
  const { tapName, mac = '' } = nic ?? {};
  return tapName === undefined ? calls : [...calls, nicCall({ tapName, mac }, {})];
};

describe('bootCalls', () => {
  it('bootCalls: any spec is refused with a typed error or differs only in its numbers and arguments', () => {
    fc.assert(
      fc.property(specs, (spec) => {
        try {
          checkSpec(spec, 32);
        } catch (error) {
          expect([VmmError, AssertionError]).toContain((error as Error).constructor);
          return;
        }
        const calls = callsOf(spec);
        const known = callsOf({
          ...harmless,
          ...(spec.nic === undefined ? {} : { nic: spec.nic }),
          ...(spec.disks === undefined ? {} : { disks: spec.disks }),
        });
        expect(calls.map(({ path }) => path)).toEqual(known.map(({ path }) => path));
        const boot = calls.find(({ path }) => path === '/boot-source')?.body as { boot_args: string };
        expect(boot.boot_args).toMatch(/^[A-Za-z0-9_.,:/= -]+$/);
        expect(boot.boot_args.match(/(^| )init=/g)).toHaveLength(1);
        const drives = calls.filter(({ path }) => path.startsWith('/drives/disk'));
        expect(drives.map(({ body }) => body)).toMatchObject(
          (spec.disks ?? []).map(({ access }, index) => ({
            path_on_host: `fc/disk${index}`,
            is_root_device: false,
            is_read_only: access === 'read',
          })),
        );
        expect(JSON.stringify(calls)).not.toMatch(/enable.pci|mmds/i);
      }),
      { numRuns: 2_000 },
    );
  });
});

describe('jailerArgs', () => {
  it('jailerArgs: any text is refused or stays one argument', () => {
    const jail = { jailer: '/j', baseDir: '/b', uid: 7, gid: 8 };
    fc.assert(
      fc.property(nasty, nasty, nasty, nasty, (id, netnsPath, parent, setting) => {
        const cgroup = { version: 2 as const, parent, settings: [setting] };
        try {
          const args = jailerArgs({ ...jail, netnsPath, cgroup }, id, '/f', ['--x']);
          expect(args.at(-2)).toBe('--');
          expect(args.indexOf('--')).toBe(args.length - 2);
          expect(args[2]).toMatch(/^[A-Za-z0-9-]+$/);
          expect(args.join('\n').split('\n')).toHaveLength(args.length);
        } catch (error) {
          expect(error).toBeInstanceOf(VmmError);
        }
      }),
      { numRuns: 2_000 },
    );
  });
});
