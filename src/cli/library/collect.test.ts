import { PassThrough, Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { EXIT } from '../../../test/support/process-exit.ts';
import { MIB } from '../../base/units.ts';
import type { Process, ProcessExit } from '../../machine/guest/link.ts';
import { collect } from './collect.ts';

function ran(stdout: readonly Buffer[], stderr: readonly Buffer[], exit: Partial<ProcessExit> = {}) {
  const process: Process = {
    pid: 1,
    warm: false,
    stdin: new PassThrough(),
    stdout: Readable.from(stdout),
    stderr: Readable.from(stderr),
    kill: () => undefined,
    resize: async () => undefined,
    exit: Promise.resolve({ ...EXIT, ...exit }),
  };
  return collect(async () => process, {});
}

describe('collect', () => {
  const part = Buffer.alloc(MIB, 'x');
  const full = Array<Buffer>(16).fill(part);

  it('keeps 16 MiB of each stream: not truncated', async () => {
    const { stdout, stderr, truncated } = await ran(full, full);
    expect([stdout.length, stderr.length, truncated]).toEqual([16 * MIB, 16 * MIB, false]);
  });

  it.each([
    ['a byte in a further chunk', [...full, Buffer.from('x')]],
    ['a byte within the last chunk', [...full.slice(1), Buffer.alloc(MIB + 1, 'x')]],
  ])('drops %s: truncated', async (_name, output) => {
    expect(await ran(output, [])).toMatchObject({ truncated: true });
    expect(await ran([], output)).toMatchObject({ truncated: true });
  });

  it('output that the guest has dropped: truncated', async () => {
    expect(await ran([], [], { truncated: true })).toMatchObject({ truncated: true });
  });
});
