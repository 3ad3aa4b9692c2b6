/**
 * Runs proofs: network proofs in a process with its own network namespaces, so that this machine's network is
 * untouched, the others with their own VMMs.
 */
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { errorCode } from '../src/base/errors.ts';
import { ignore } from '../src/base/ignore.ts';
import { modulePath } from '../src/base/module-path.ts';
import { NEW_NAMESPACE } from './actor.ts';
import { ProofError } from './errors.ts';
import { DIR_PREFIX } from './map.ts';
import type { Proof } from './proof.ts';
import type { JailContext } from './proof-runtime.ts';

/** Proofs that run in network namespaces. */
const NETWORK_PROOFS = ['metadata', 'egress', 'secrets', 'xdp', 'neighbors'] as const;
export const PROOF_NAMES = [
  ...NETWORK_PROOFS,
  'seccomp',
  'caps',
  'cgroup',
  'image',
  'io',
  'files',
  'engine',
  'ratelimit',
  'oom',
  'packages',
  'tenants',
  'floods',
  'load',
] as const;
/** The default: all proofs but `load`, whose duration is a choice. */
export const USUAL_PROOFS = PROOF_NAMES.filter((name) => name !== 'load');
export type ProofName = (typeof PROOF_NAMES)[number];
type NetworkProof = (typeof NETWORK_PROOFS)[number];

/** Loaded on demand. */
const VMM_PROOFS: Readonly<
  Record<Exclude<ProofName, NetworkProof>, () => Promise<(context: JailContext) => Promise<Proof>>>
> = {
  seccomp: async () => (await import('./jail/seccomp-proof.ts')).proveSeccomp,
  caps: async () => (await import('./jail/caps-proof.ts')).proveCaps,
  cgroup: async () => (await import('./jail/cgroup-proof.ts')).proveCgroup,
  image: async () => (await import('./jail/image-proof.ts')).proveImage,
  io: async () => (await import('./jail/io-proof.ts')).proveIo,
  ratelimit: async () => (await import('./vms/ratelimit-proof.ts')).proveRatelimit,
  files: async () => (await import('./vms/files-proof.ts')).proveFiles,
  engine: async () => (await import('./jail/engine-proof.ts')).proveEngine,
  load: async () => (await import('./vms/load-proof.ts')).proveLoad,
  oom: async () => (await import('./vms/oom-proof.ts')).proveOom,
  tenants: async () => (await import('./api/tenants-proof.ts')).proveTenants,
  floods: async () => (await import('./api/floods-proof.ts')).proveFloods,
  packages: async () => {
    const { provePackages } = await import('./packages/packages-proof.ts');
    return async () => await provePackages();
  },
};

/** An ordinary user may trace its own VMMs; the package gateway and a daemon need no privilege. */
const AS_USER: ReadonlySet<ProofName> = new Set(['seccomp', 'caps', 'packages', 'tenants', 'floods']);

type Line = { readonly proof: Proof } | { readonly error: { readonly message: string; readonly remedy?: string } };

/**
 * Runs the proofs one after another, network proofs first.
 * @param onProof called with each proof as soon as it is done
 * @throws ProofError; RuntimeError if VMMs can't be jailed
 */
export async function prove(
  names: readonly ProofName[],
  options: JailContext & { readonly signal: AbortSignal },
  onProof: (proof: Proof) => void = () => undefined,
): Promise<readonly Proof[]> {
  if (process.geteuid?.() !== 0 && !names.every((name) => AS_USER.has(name))) {
    const remedy =
      'Run it as root; it uses its own namespaces and leaves nothing behind. Only seccomp, caps, packages, tenants and floods run as another user.';
    throw new ProofError('not_permitted', 'proofs need root', { remedy });
  }
  const ofNetwork = names.filter((name) => isOfNetwork(name));
  const proofs: Proof[] = [];
  if (ofNetwork.length > 0) proofs.push(...(await proveNetwork(ofNetwork, options.signal, onProof)));
  for (const name of names) {
    if (isOfNetwork(name)) continue;
    options.signal.throwIfAborted();
    const proveOne = await VMM_PROOFS[name]();
    const proof = await proveOne(options);
    proofs.push(proof);
    onProof(proof);
  }
  return proofs;
}

function isOfNetwork(name: ProofName): name is NetworkProof {
  return NETWORK_PROOFS.some((each) => each === name);
}

async function proveNetwork(
  names: readonly NetworkProof[],
  signal: AbortSignal,
  onProof: (proof: Proof) => void,
): Promise<readonly Proof[]> {
  const [command, ...first] = NEW_NAMESPACE;
  const main = modulePath('./main.ts', import.meta.url);
  // Holds all files of the child, which may be killed at any moment, also by Ctrl-C.
  const dir = await mkdtemp(join(tmpdir(), DIR_PREFIX));
  const child = spawn(command, [...first, process.execPath, main, dir, ...names], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  const ended = waitFor(child);
  child.stdin.on('error', (error) => ignore(error, 'the proof has ended'));
  // The child's actors end with their stdin.
  const stop = (): boolean => child.kill('SIGKILL');
  signal.addEventListener('abort', stop, { once: true });
  try {
    if (signal.aborted) stop();
    return await collect(child.stdout, ended, names, onProof);
  } finally {
    signal.removeEventListener('abort', stop);
    stop();
    await ended.catch((error: unknown) => ignore(error, 'already reported'));
    await rm(dir, { recursive: true, force: true });
  }
}

async function collect(
  stdout: NodeJS.ReadableStream,
  ended: Promise<void>,
  names: readonly NetworkProof[],
  onProof: (proof: Proof) => void,
): Promise<readonly Proof[]> {
  const proofs: Proof[] = [];
  for await (const text of createInterface({ input: stdout })) {
    const line = JSON.parse(text) as Line;
    if ('error' in line) {
      const { message, remedy } = line.error;
      const cause = new Error(message);
      const more = remedy === undefined ? { cause } : { cause, remedy };
      throw new ProofError('no_world', 'could not set up the network of the proofs', more);
    }
    proofs.push(line.proof);
    onProof(line.proof);
  }
  await ended;
  if (proofs.length === names.length) return proofs;
  const cause = new Error(`it ended after ${proofs.length} of ${names.length} proofs`);
  throw new ProofError('no_world', 'could not run the network proofs', { cause });
}

function waitFor(child: ReturnType<typeof spawn>): Promise<void> {
  const ended = new Promise<void>((resolve, reject) => {
    child.once('error', (cause) => {
      const isMissing = errorCode(cause) === 'ENOENT';
      const remedy = 'Install util-linux, which has unshare(1).';
      const more = isMissing ? { cause, remedy } : { cause };
      reject(new ProofError('no_world', 'could not start a process in a network namespace', more));
    });
    child.once('close', () => resolve());
  });
  // Awaited when stdout has ended.
  ended.catch((error: unknown) => ignore(error, 'reported to the caller later'));
  return ended;
}
