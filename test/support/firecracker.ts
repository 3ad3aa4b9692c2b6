/** A real Firecracker for tests, and the guest that it runs. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { TINY_GUEST_DIR, TINY_GUEST_FLAGS } from '../../prove/jail/tiny-guest.ts';
import type { ParityFiles } from './driver-parity.ts';
import { type FirecrackerPrograms, supportedFirecracker } from './firecracker-programs.ts';
import { type Requirement, requires } from './requires.ts';
import { testCacheDir } from './wheel.ts';

export interface FirecrackerFiles extends ParityFiles, FirecrackerPrograms {}

/** The files, or the reason why there are none. */
export function firecrackerFiles(): FirecrackerFiles | string {
  try {
    return findFiles();
  } catch (error) {
    return error instanceof Error ? error.message.split('\n', 1).join('') : String(error);
  }
}

export const requiresFirecracker = (): Requirement<FirecrackerFiles> => requires('firecracker', firecrackerFiles());

/** Firecracker in a jail, with a network, or taken over. */
export const requiresFirecrackerAsRoot = (): Requirement<FirecrackerFiles> =>
  requires('firecracker', process.geteuid?.() === 0 ? firecrackerFiles() : 'it is not root');

function findFiles(): FirecrackerFiles | string {
  closeSync(openSync('/dev/kvm', 'r+'));
  const programs = supportedFirecracker(process.env);
  if (typeof programs === 'string') return programs;
  const kernelPath = buildGuest();
  const rootImagePath = join(cacheDir(), 'root');
  if (!existsSync(rootImagePath)) {
    const beside = `${rootImagePath}.${process.pid}`;
    writeFileSync(beside, Buffer.concat([Buffer.from('golden'), Buffer.alloc(65_530)]));
    renameSync(beside, rootImagePath);
  }
  return { ...programs, kernelPath, rootImagePath };
}

const cacheDir = (): string => testCacheDir('test-firecracker');

function buildGuest(): string {
  const sources = readdirSync(TINY_GUEST_DIR).sort();
  const hash = createHash('sha256').update(TINY_GUEST_FLAGS.join(' '));
  for (const name of sources) hash.update(readFileSync(join(TINY_GUEST_DIR, name)));
  const kernel = join(cacheDir(), `guest-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(kernel)) return kernel;
  const work = mkdtempSync(join(tmpdir(), 'nv-guest-'));
  try {
    const made = join(work, 'guest');
    execFileSync('gcc', [...TINY_GUEST_FLAGS, 'entry.S', 'guest.c', '-o', made], { cwd: TINY_GUEST_DIR });
    const beside = `${kernel}.${process.pid}`;
    writeFileSync(beside, readFileSync(made));
    renameSync(beside, kernel);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return kernel;
}
