/** No untrusted text becomes an option of QEMU or of the kernel (S6). */

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { AssertionError } from '../../../base/assert.ts';
import type { VmSpec } from '../driver.ts';
import { VmmError } from '../errors.ts';
import { checkSpec } from '../spec.ts';
import { kernelArgs, qemuArgs } from './args.ts';

/** Typical injections, mixed with arbitrary text. */
const nasty = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 120 }),
  fc
    .array(fc.constantFrom(',', ',,', ' ', '\n', '\0', '"', "'", '\\', '}', '=', '-', '/', 'a', '%s'), {
      maxLength: 20,
    })
    .map((parts) => parts.join('')),
  fc.constantFrom('-o source=/', ',readonly=off', 'a -device x', '"}', '--', 'init=/bin/sh', 'rw'),
);
const path = nasty.map((text) => `/${text}`);
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

/** A harmless spec with any of its fields replaced. */
const specs = fc
  .record(
    {
      id: nasty,
      dir: fc.oneof(path, nasty),
      cpus: fc.double(),
      memoryMib: fc.double(),
      balloonMib: fc.double(),
      kernelPath: fc.oneof(path, nasty),
      rootImagePath: fc.oneof(path, nasty),
      overlayPath: fc.oneof(path, nasty),
      guestCid: fc.double(),
      channelPath: fc.oneof(path, nasty),
      disks: fc.array(fc.record({ path: fc.oneof(path, nasty), access: fc.constantFrom('read', 'write') }), {
        maxLength: 10,
      }),
      bootArgs: fc.array(fc.oneof(fc.constant('loglevel=7'), nasty), { maxLength: 3 }),
    },
    { requiredKeys: [] },
  )
  .map((wrong): VmSpec => ({ ...harmless, ...wrong }));

const argsOf = (spec: VmSpec): string[] =>
  qemuArgs({
    accelerator: 'tcg',
    cpus: spec.cpus,
    memoryMib: spec.memoryMib,
    kernelPath: spec.kernelPath,
    kernelArgs: kernelArgs({ accelerator: 'tcg', cpus: 1, tscKhz: 1, bootArgs: spec.bootArgs ?? [] }),
    rootImagePath: spec.rootImagePath,
    overlayPath: spec.overlayPath,
    disks: spec.disks ?? [],
    firmwarePath: '/usr/share/qemu/qboot.rom',
    hasBalloon: spec.balloonMib !== undefined,
    inheritsMemory: spec.memoryFd !== undefined,
    incoming: spec.snapshot !== undefined,
  });

describe('checkSpec and qemuArgs', () => {
  it('checkSpec: any spec is refused with a typed error or has harmless arguments', () => {
    fc.assert(
      fc.property(specs, (spec) => {
        try {
          checkSpec(spec, 64);
        } catch (error) {
          expect([VmmError, AssertionError]).toContain((error as Error).constructor);
          return;
        }
        expectHarmless(spec);
      }),
      { numRuns: 3_000 },
    );
  });

  it('qemuArgs: paths with any special character stay one value', () => {
    const odd = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 100 }).map((s) => `/${s}`);
    fc.assert(
      fc.property(odd, odd, odd, (kernelPath, rootImagePath, overlayPath) => {
        expectHarmless({ ...harmless, kernelPath, rootImagePath, overlayPath });
      }),
      { numRuns: 1_000 },
    );
  });
});

/** Only the values differ from the arguments of a harmless spec, and each is the given one. */
function expectHarmless(spec: VmSpec): void {
  const args = argsOf(spec);
  const disks = (spec.disks ?? []).map(({ access }) => ({ path: '/d', access }));
  const known = argsOf({ ...harmless, cpus: spec.cpus, memoryMib: spec.memoryMib, disks });
  expect(args).toHaveLength(known.length);
  for (const [index, arg] of args.entries()) {
    if (arg === known[index]) continue;
    switch (args[index - 1]) {
      case '-kernel':
        expect(arg).toBe(spec.kernelPath);
        expect(arg.startsWith('/')).toBe(true);
        break;
      case '-append':
        expect(arg).toMatch(/^[A-Za-z0-9_.,:/= -]+$/);
        expect(arg.split(' ').slice(known[index]?.split(' ').length)).toEqual(spec.bootArgs);
        expect(arg.match(/(^| )(init|root)=/g)).toHaveLength(2);
        break;
      case '-blockdev':
        expectHarmlessNode(arg, known[index] ?? '', spec);
        break;
      default:
        expect.fail(`argument ${index} after ${args[index - 1]} is ${JSON.stringify(arg)}`);
    }
  }
}

function expectHarmlessNode(arg: string, known: string, spec: VmSpec): void {
  const node = JSON.parse(arg);
  const further = spec.disks?.[Number(/^disk(\d+)$/.exec(node['node-name'])?.[1])];
  const given = further?.path ?? (node['node-name'] === 'root' ? spec.rootImagePath : spec.overlayPath);
  expect(node.file.filename).toBe(given);
  const same = JSON.parse(known);
  same.file.filename = given;
  expect(node).toEqual(same);
}
