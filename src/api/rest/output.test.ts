import { PassThrough, Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { EXIT } from '../../../test/support/process-exit.ts';
import type { Process } from '../../machine/guest/guest.ts';
import { AnswerMemory } from './answer-buffer.ts';
import { collectOutput } from './output.ts';

function process(stdout: readonly Buffer[], stderr: readonly Buffer[], truncated = false): Process {
  return {
    pid: 1,
    warm: false,
    stdin: new PassThrough(),
    stdout: Readable.from(stdout),
    stderr: Readable.from(stderr),
    resize: async () => undefined,
    kill: () => undefined,
    exit: Promise.resolve({ ...EXIT, truncated }),
  };
}

const bytes = (...texts: string[]): Buffer[] => texts.map((text) => Buffer.from(text));

const collect = (program: Process, bytesMax: number) => {
  const memory = new AnswerMemory();
  const stdout = memory.buffer('a', bytesMax);
  return collectOutput(program, bytesMax, { stdout, stderr: memory.buffer('a', bytesMax) });
};

describe('collectOutput', () => {
  it('joins chunks, even if they split a character', async () => {
    const [a, b] = [Buffer.from('é').subarray(0, 1), Buffer.from('é').subarray(1)];
    const output = await collect(process([a, b], bytes('x', 'y')), 100);
    expect(output).toMatchObject({ stdout: 'é', stderr: 'xy', truncated: false });
  });

  it('encodes bytes that are not UTF-8 as base64', async () => {
    const output = await collect(process([Buffer.from([0xff, 0x00])], bytes('text')), 100);
    expect(output).toMatchObject({ stdout: '/wA=', stderr: 'text', encoding: { stdout: 'base64', stderr: 'utf8' } });
  });

  it('limits stdout and stderr together, and reads on to the end', async () => {
    const many = Array.from({ length: 1000 }, () => Buffer.from('abc'));
    const output = await collect(process(many, many), 100);
    expect(output.stdout.length + output.stderr.length).toBe(100);
    expect(output.truncated).toBe(true);
  });

  it('does not mark output of exactly the limit as truncated', async () => {
    const output = await collect(process(bytes('abcd'), []), 4);
    expect(output).toMatchObject({ stdout: 'abcd', truncated: false });
  });

  it('reports truncation by the guest', async () => {
    expect((await collect(process([], [], true), 4)).truncated).toBe(true);
  });
});
