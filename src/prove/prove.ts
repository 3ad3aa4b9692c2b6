/** Runs proofs in a process and network namespaces of their own; nothing of this machine's network is touched. */
import { spawn } from 'node:child_process';
import { createInterface } from 'node:readline';
import { CodedError, errorCode } from '../base/errors.ts';
import { ignore } from '../base/ignore.ts';
import { NEW_NAMESPACE } from './actor.ts';
import type { Proof } from './proof.ts';

export const PROOF_NAMES = ['metadata', 'egress', 'xdp'] as const;
export type ProofName = (typeof PROOF_NAMES)[number];

export type ProofErrorCode =
  /** Namespaces can't be made here. */
  | 'not_permitted'
  /** The world of the proof could not be made, or its process ended early; the cause says why. */
  | 'no_world';

export class ProofError extends CodedError<ProofErrorCode> {}

type Line =
  | { readonly proof: Proof }
  | { readonly error: { readonly message: string; readonly remedy?: string } };

/**
 * @param onProof as soon as each is done
 * @throws ProofError
 */
export async function prove(
  names: readonly ProofName[],
  signal: AbortSignal,
  onProof: (proof: Proof) => void = () => undefined,
): Promise<readonly Proof[]> {
  if (process.geteuid?.() !== 0) {
    const remedy = 'Run it as root; it makes network namespaces of its own and leaves nothing.';
    throw new ProofError('not_permitted', 'prove what the network does', { remedy });
  }
  const [command, ...first] = NEW_NAMESPACE;
  const main = new URL('./main.ts', import.meta.url).pathname;
  const child = spawn(command, [...first, process.execPath, main, ...names], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  child.stdin.on('error', (error) => ignore(error, 'a proof that has ended'));
  // It ends with its stdin, and its actors with theirs.
  const stop = (): boolean => child.kill('SIGKILL');
  signal.addEventListener('abort', stop, { once: true });
  try {
    return await collect(child.stdout, waitFor(child), names, onProof);
  } finally {
    signal.removeEventListener('abort', stop);
    stop();
  }
}

async function collect(
  stdout: NodeJS.ReadableStream,
  ended: Promise<void>,
  names: readonly ProofName[],
  onProof: (proof: Proof) => void,
): Promise<readonly Proof[]> {
  const proofs: Proof[] = [];
  for await (const text of createInterface({ input: stdout })) {
    const line = JSON.parse(text) as Line;
    if ('error' in line) {
      const { message, remedy } = line.error;
      const cause = new Error(message);
      const more = remedy === undefined ? { cause } : { cause, remedy };
      throw new ProofError('no_world', 'make a network to prove something in', more);
    }
    proofs.push(line.proof);
    onProof(line.proof);
  }
  await ended;
  if (proofs.length === names.length) return proofs;
  const cause = new Error(`it ended after ${proofs.length} of ${names.length}`);
  throw new ProofError('no_world', 'prove what the network does', { cause });
}

function waitFor(child: ReturnType<typeof spawn>): Promise<void> {
  const ended = new Promise<void>((resolve, reject) => {
    child.once('error', (cause) => {
      const isMissing = errorCode(cause) === 'ENOENT';
      const remedy = 'Install util-linux, which has unshare(1).';
      const more = isMissing ? { cause, remedy } : { cause };
      reject(new ProofError('no_world', 'start a process in a network namespace', more));
    });
    child.once('close', () => resolve());
  });
  // It is looked at when stdout has ended.
  ended.catch((error: unknown) => ignore(error, 'told to the caller later'));
  return ended;
}
