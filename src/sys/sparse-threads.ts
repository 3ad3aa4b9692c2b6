/**
 * The copies and digests of `sparse.ts` in threads of their own, so that a gigabyte of RAM holds nobody up
 * and is copied while a VMM starts.
 *
 * Paths like `/proc/self/fd/7` mean the same there: threads share their descriptors.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import type { Part } from './sparse.ts';
import type { SparseAnswer, SparseJob } from './sparse-worker.ts';

interface Thread {
  readonly worker: Worker;
  readonly pending: Map<number, PromiseWithResolvers<string | undefined>>;
}

/** More than memory's bandwidth needs are no use. */
const THREADS = Math.min(2, availableParallelism());

const threads: Thread[] = [];
let lastKey = 0;

/** Starts the threads ahead of the first copy, which takes them 40 ms. */
export function warmSparseThreads(): void {
  while (threads.length < THREADS) threads.push(start());
}

/** By all threads together. */
export async function copyDataInto(from: string, to: string): Promise<void> {
  const parts = Array.from({ length: THREADS }, (_, index) =>
    ask('copyDataInto', from, to, { index, of: THREADS }),
  );
  // All are over before the caller hears of it: none writes on into what is given up.
  const results = await Promise.allSettled(parts);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}

export async function copyNonZeroInto(from: string, to: string): Promise<void> {
  await ask('copyNonZeroInto', from, to);
}

export async function copyWithoutZeros(from: string, to: string): Promise<void> {
  await ask('copyWithoutZeros', from, to);
}

export async function cloneSparse(from: string, to: string): Promise<void> {
  await ask('cloneSparse', from, to);
}

export async function digestSparse(path: string): Promise<string> {
  return (await ask('digestSparse', path, '')) ?? '';
}

async function ask(
  work: SparseJob['work'],
  from: string,
  to: string,
  part?: Part,
): Promise<string | undefined> {
  warmSparseThreads();
  const [first, ...others] = threads;
  assert(first !== undefined, 'there are threads');
  const { worker, pending } = others.reduce(
    (least, one) => (one.pending.size < least.pending.size ? one : least),
    first,
  );
  lastKey += 1;
  const key = lastKey;
  const answer = Promise.withResolvers<string | undefined>();
  pending.set(key, answer);
  // The process lives on for a copy, but not for a thread that waits.
  worker.ref();
  const job: SparseJob = { key, work, paths: [from, to], ...(part === undefined ? {} : { part }) };
  worker.postMessage(job);
  try {
    return await answer.promise;
  } finally {
    pending.delete(key);
    if (pending.size === 0) worker.unref();
  }
}

function start(): Thread {
  const file = import.meta.url.endsWith('.ts') ? './sparse-worker.ts' : './sparse-worker.js';
  const worker = new Worker(new URL(file, import.meta.url), { name: 'copies' });
  const made: Thread = { worker, pending: new Map() };
  worker.unref();
  worker.on('message', (answer: SparseAnswer) => {
    const waiting = made.pending.get(answer.key);
    if (answer.ok) waiting?.resolve(answer.result);
    else {
      const { message, code } = answer;
      waiting?.reject(Object.assign(new Error(message), code === undefined ? {} : { code }));
    }
  });
  const failed = (error: Error): void => {
    const at = threads.indexOf(made);
    if (at >= 0) threads.splice(at, 1);
    for (const { reject } of made.pending.values()) reject(error);
  };
  worker.on('error', failed);
  worker.on('exit', (status) => failed(new Error(`the copying thread ended with ${status}`)));
  return made;
}
