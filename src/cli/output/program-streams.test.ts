import { PassThrough, Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { EXIT } from '../../../test/support/process-exit.ts';
import { testCli } from '../../../test/support/test-cli.ts';
import { MIB } from '../../base/units.ts';
import type { Process } from '../../machine/guest/link.ts';
import { relay } from './program-streams.ts';

function processWith(stdout: Iterable<Buffer>, stderr: Iterable<Buffer>): Process {
  const streams = { stdout: Readable.from(stdout), stderr: Readable.from(stderr) };
  const rest = { pid: 1, warm: false, stdin: new PassThrough(), kill: () => undefined, resize: async () => undefined };
  return { ...rest, ...streams, exit: Promise.resolve(EXIT) };
}

describe('relay', () => {
  it('-o json: keeps 16 MiB of each stream and reports how much more was dropped', async () => {
    const { cli, stdout } = testCli({ json: true });
    const piece = Buffer.alloc(MIB - 1, 'x');
    const process = processWith(Array<Buffer>(20).fill(piece), [Buffer.from('warning')]);
    const relayed = await relay(cli, process, { stdin: false, graceMs: null });
    expect(relayed.stdout.length).toBe(16 * MIB);
    expect(relayed.stderr).toBe('warning');
    expect(relayed.truncated).toEqual({ stdoutBytes: 20 * (MIB - 1) - 16 * MIB, stderrBytes: 0 });
    expect(stdout()).toBe('');
  });

  it('text: passes everything on and drops nothing', async () => {
    const { cli, stdout } = testCli();
    const process = processWith([Buffer.from('a'), Buffer.from('b')], []);
    const relayed = await relay(cli, process, { stdin: false, graceMs: null });
    expect(stdout()).toBe('ab');
    expect(relayed.truncated).toEqual({ stdoutBytes: 0, stderrBytes: 0 });
  });
});
