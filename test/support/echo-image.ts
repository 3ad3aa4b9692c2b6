/**
 * The files that a VM test boots: a guest kernel that `setup` has built, and an EROFS image with one static program
 * (`test/fixtures/echo-guest.c`) that is built at its first use.
 */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ParityFiles } from './driver-parity.ts';
import { type Requirement, requires } from './requires.ts';

const SOURCE = join(import.meta.dirname, '../fixtures/echo-guest.c');
/** Mount points that the guest expects in its read-only root. */
const FOLDERS = ['sbin', 'dev', 'proc', 'sys', 'tmp'];

/** The files, or the reason why there are none. */
export function echoGuestFiles(): ParityFiles | string {
  const kernelPath = findKernel();
  const missing =
    kernelPath === undefined
      ? 'no guest kernel; run `./neurovisor setup` or set NEUROVISOR_TEST_KERNEL'
      : missingTool('qemu-system-x86_64', 'gcc', 'mkfs.erofs');
  if (kernelPath !== undefined && missing === undefined) {
    return { kernelPath, rootImagePath: buildImage() };
  }
  return missing ?? '';
}

export const requiresEchoGuest = (): Requirement<ParityFiles> => requires('tcg', echoGuestFiles());

/** The newest one in the cache. */
function findKernel(): string | undefined {
  const given = process.env['NEUROVISOR_TEST_KERNEL'];
  if (given) return given;
  const home = process.env['NEUROVISOR_HOME'] || join(homedir(), '.neurovisor');
  const dir = join(home, 'cache/kernel');
  if (!existsSync(dir)) return undefined;
  const built = readdirSync(dir).map((name) => join(dir, name, 'vmlinux'));
  return built.findLast((path) => existsSync(path));
}

function missingTool(...names: string[]): string | undefined {
  const folders = (process.env['PATH'] ?? '').split(':');
  const absent = names.find((name) => !folders.some((folder) => existsSync(join(folder, name))));
  return absent === undefined ? undefined : `${absent} is not installed`;
}

function buildImage(): string {
  const digest = createHash('sha256').update(readFileSync(SOURCE)).digest('hex').slice(0, 16);
  const cache = join(tmpdir(), `neurovisor-test-${process.getuid?.() ?? 0}`);
  const image = join(cache, `echo-${digest}.erofs`);
  if (existsSync(image)) return image;
  mkdirSync(cache, { recursive: true, mode: 0o700 });
  const work = mkdtempSync(join(cache, 'build-'));
  try {
    for (const folder of FOLDERS) mkdirSync(join(work, 'root', folder), { recursive: true });
    const program = join(work, 'root/sbin/neurovisor-init');
    execFileSync('gcc', ['-O2', '-Wall', '-static', '-pthread', '-s', '-o', program, SOURCE]);
    const built = join(work, 'image');
    execFileSync('mkfs.erofs', ['-T0', built, join(work, 'root')], { stdio: 'pipe' });
    renameSync(built, image);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return image;
}
