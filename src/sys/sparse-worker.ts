/** A thread that copies and digests sparse files for `sparse-threads.ts`. */
import { parentPort } from 'node:worker_threads';
import { assert } from '../base/assert.ts';
import { errorCode } from '../base/errors.ts';
import { type IgnoredCounts, takeIgnored } from '../base/ignore.ts';
import { sealFile, unsealInto, unsealNew } from './sealed-file.ts';
import * as sparse from './sparse.ts';

/** A key that no job has: the thread has loaded. */
export const LOADED = 0;

export const WORK = {
  copyDataInto: sparse.copyDataInto,
  copyNonZeroInto: sparse.copyNonZeroInto,
  copyWithoutZeros: sparse.copyWithoutZeros,
  cloneSparse: sparse.cloneSparse,
  digestSparse: sparse.digestSparse,
  digestWhole: sparse.digestWhole,
  sealFile,
  unsealNew,
  unsealInto,
} as const;

export interface SparseJob {
  readonly key: number;
  readonly work: keyof typeof WORK;
  readonly paths: readonly [from: string, to: string];
  /** Of the encrypting ones. */
  readonly secret: Uint8Array;
}

type Outcome =
  /** The first message. */
  | { readonly key: typeof LOADED; readonly ok: true; readonly result: undefined }
  | { readonly key: number; readonly ok: true; readonly result: string | undefined }
  | { readonly key: number; readonly ok: false; readonly message: string; readonly code: string | undefined };

export type SparseAnswer = Outcome & {
  /** Errors that the thread ignored since its last answer. */
  readonly ignored: IgnoredCounts | undefined;
};

const port = parentPort;
assert(port !== null, 'sparse-worker.ts runs as a worker thread');

async function answer({ key, work, paths, secret }: SparseJob): Promise<Outcome> {
  try {
    const result = await WORK[work](...paths, secret);
    return { key, ok: true, result: result ?? undefined };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    return { key, ok: false, message, code: errorCode(error) };
  }
}

const send = (outcome: Outcome): void =>
  port.postMessage({ ...outcome, ignored: takeIgnored() } satisfies SparseAnswer);

send({ key: LOADED, ok: true, result: undefined });
port.on('message', (job: SparseJob) => void answer(job).then(send));
