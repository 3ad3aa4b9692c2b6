import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { describe, expect, it } from 'vitest';
import { NO_EVIDENCE } from '../../sandbox/contract/ending.ts';
import { ClientError } from './errors.ts';
import { readEvents } from './events.ts';

const SANDBOX = 'a'.repeat(20);
const none = new ClientError('daemon_unreachable', 'no daemon is running');
const text = (body: object): string => `data: ${JSON.stringify({ sandbox: SANDBOX, atMs: 1, ...body })}\n\n`;
const adopted = (seq: number): string => text({ type: 'adopted', gapMs: 1, seq });
const ended = (seq: number): string =>
  text({ type: 'end', seq, end: { cause: 'stopped', detail: '', atMs: 1, evidence: NO_EVIDENCE } });

/** Reads events from daemons, one per try: what each sends before it dies, or why none answers. */
async function read(daemons: readonly (string | ClientError)[]) {
  const left = [...daemons];
  const [asked, seen]: [string[], number[]] = [[], []];
  const open = async (query: URLSearchParams): Promise<IncomingMessage> => {
    asked.push(query.get('after') ?? '');
    const next = left.shift() ?? none;
    if (typeof next !== 'string') throw next;
    return Readable.from([Buffer.from(next)]) as IncomingMessage;
  };
  const reading = readEvents(open, {}, async () => undefined);
  try {
    for await (const { seq } of reading) seen.push(seq);
  } catch (error) {
    return { asked, seen, error };
  }
  return { asked, seen };
}

describe('readEvents', () => {
  it('goes on after its last number with the next daemon, for which it waits', async () => {
    const restart = [adopted(7), none, none, none, adopted(1031) + ended(1032)];
    expect(await read(restart)).toEqual({ asked: ['0', '7', '7', '7', '7'], seen: [7, 1031, 1032] });
  });

  it('waits half a minute for each restart', async () => {
    const { asked, seen, error } = await read([adopted(1), ...Array(20).fill(none), adopted(2)]);
    expect([seen, error]).toEqual([[1, 2], none]);
    expect(asked).toHaveLength(1 + 20 + 1 + 31);
  });

  it('does not wait for a daemon that it never reached', async () => {
    expect(await read([none])).toEqual({ asked: ['0'], seen: [], error: none });
  });
});
