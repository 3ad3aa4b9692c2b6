/**
 * A program in a guest that counts: its output shows whether it continued, restarted or was lost. It picks a word at
 * its start and keeps it in memory only.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Guest } from '../../src/machine/guest/link.ts';

export interface Count {
  readonly pid: number;
  readonly word: string;
  readonly n: number;
  /** The variable `OWN` of its environment. */
  readonly own: string | null;
}

const CODE = `
import json, os, time
word, n = os.urandom(8).hex(), 0
while True:
    n += 1
    with open('count.new', 'w') as file:
        json.dump({'pid': os.getpid(), 'word': word, 'n': n, 'own': os.environ.get('OWN')}, file)
    os.rename('count.new', 'count')
    time.sleep(0.02)
`;
const COUNTED_MS_MAX = 30_000;

/** Resolves with the first count, detached from the program. */
export async function startCounter(guest: Guest): Promise<Count> {
  const leaving = new AbortController();
  const program = { script: { code: CODE }, detached: true, stdin: false } as const;
  const process = await guest.python(program, leaving.signal);
  const left = process.exit.catch((error: unknown) => error);
  const first = await countBeyond(guest, 0);
  leaving.abort();
  await left;
  return first;
}

export async function readCount(guest: Guest): Promise<Count> {
  return JSON.parse((await guest.files.readAll('count')).toString()) as Count;
}

/** Waits until it has counted beyond `n`. */
export async function countBeyond(guest: Guest, n: number): Promise<Count> {
  for (const deadline = Date.now() + COUNTED_MS_MAX; Date.now() < deadline; await sleep(20)) {
    const count = await readCount(guest).catch(() => undefined);
    if (count !== undefined && count.n > n) return count;
  }
  throw new Error(`the counter does not count beyond ${n}`);
}
