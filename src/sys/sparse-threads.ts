/**
 * Runs the work of `sparse.ts` and `sealed-file.ts` on threads, so that a gigabyte of RAM does not block the event loop
 * and is copied while a VMM starts.
 *
 * Paths like `/proc/self/fd/7` mean the same there: threads share their descriptors.
 */
import { availableParallelism } from 'node:os';
import { Worker } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { addIgnored, ignore } from '../base/ignore.ts';
import { modulePath } from '../base/module-path.ts';
import type { SparseAnswer, SparseJob } from './sparse-worker.ts';

interface Thread {
  readonly worker: Worker;
  readonly pending: Map<number, PromiseWithResolvers<string | undefined>>;
}

/** `LOADED` of `sparse-worker.ts`, which only a thread may import. */
const LOADED: typeof import('./sparse-worker.ts').LOADED = 0;

/** For different files: writes to one file wait for its inode's lock. */
const THREADS = Math.min(2, availableParallelism());

const threads: Thread[] = [];
let lastKey = 0;

/**
 * Starts the threads before the first copy, in 40 ms. The process does not exit before: ending a thread while it loads
 * koffi would abort the process.
 */
export function warmSparseThreads(): void {
  while (threads.length < THREADS) threads.push(start());
}

/** Number of threads still loading; for tests. */
export function threadsThatLoad(): number {
  return threads.filter(({ pending }) => pending.has(LOADED)).length;
}

export async function copyDataInto(from: string, to: string): Promise<void> {
  await ask('copyDataInto', from, to);
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

export async function digestWhole(path: string): Promise<string> {
  return (await ask('digestWhole', path, '')) ?? '';
}

/** See `sealed-file.ts`. */
export async function sealFile(from: string, to: string, key: Uint8Array): Promise<void> {
  await ask('sealFile', from, to, key);
}

/** @throws an error with the code `sealed_damaged` */
export async function unsealNew(from: string, to: string, key: Uint8Array): Promise<void> {
  await ask('unsealNew', from, to, key);
}

/** @throws an error with the code `sealed_damaged` */
export async function unsealInto(from: string, to: string, key: Uint8Array): Promise<void> {
  await ask('unsealInto', from, to, key);
}

const NO_KEY = new Uint8Array();

async function ask(
  work: SparseJob['work'],
  from: string,
  to: string,
  secret: Uint8Array = NO_KEY,
): Promise<string | undefined> {
  warmSparseThreads();
  const [first, ...others] = threads;
  assert(first !== undefined, 'warmSparseThreads started threads');
  const least = others.reduce((best, one) => (one.pending.size < best.pending.size ? one : best), first);
  const { worker, pending } = least;
  lastKey += 1;
  const key = lastKey;
  const answer = Promise.withResolvers<string | undefined>();
  pending.set(key, answer);
  worker.ref();
  worker.postMessage({ key, work, paths: [from, to], secret } satisfies SparseJob);
  return await answer.promise.finally(() => settle(least, key));
}

/** A copy keeps the process alive, an idle thread does not. */
function settle({ worker, pending }: Thread, key: number): void {
  pending.delete(key);
  if (pending.size === 0) worker.unref();
}

function start(): Thread {
  const worker = new Worker(modulePath('./sparse-worker.ts', import.meta.url), { name: 'copies' });
  const made: Thread = { worker, pending: new Map() };
  const loading = Promise.withResolvers<string | undefined>();
  loading.promise.catch((error: unknown) => ignore(error, 'the next request reports it'));
  made.pending.set(LOADED, loading);
  worker.on('message', (answer: SparseAnswer) => {
    if (answer.ignored !== undefined) addIgnored(answer.ignored);
    const waiting = made.pending.get(answer.key);
    if (answer.key === LOADED) settle(made, LOADED);
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
