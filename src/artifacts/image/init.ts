/**
 * The guest's init: the static program that the repository ships if it fits `guest/init.c`; otherwise gcc compiles it
 * here.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { PREBUILT_DIR, type PrebuiltManifest, prebuiltSchema } from '../../base/prebuilt/manifest.ts';
import { buildsFromSource } from './build-choice.ts';
import { readShipped, unpackPrebuilt } from './prebuilt.ts';
import type { PrepareContext } from './prepare.ts';
import { firstLineOf, runTool } from './tool.ts';
import { digestBytes } from './verify.ts';

export const INIT = 'init';
/** A build id and debug data would differ between build directories. */
const FLAGS = ['-static', '-Os', '-s', '-Wall', '-Wextra', '-Wl,--build-id=none'];

export interface GuestInit {
  readonly identity: string;
  /** True if set-up needs a compiler for it. */
  readonly isBuilt: boolean;
  /** Writes the program to a path that does not exist yet. @returns the compiler that built it @throws ImageError */
  place(to: string, signal: AbortSignal): Promise<string>;
}

/** @throws ImageError `source_invalid` if the shipped program's manifest is damaged */
export async function guestInit({
  cacheDir,
  sourceDir,
}: Pick<PrepareContext, 'cacheDir' | 'sourceDir'>): Promise<GuestInit> {
  const shipped = (await buildsFromSource(cacheDir))
    ? undefined
    : await readShipped(prebuiltInitDir(sourceDir), prebuiltSchema);
  const inputs = await digestInit(sourceDir);
  if (shipped?.inputs === inputs) return shippedInit(prebuiltInitDir(sourceDir), shipped);
  return { identity: `built from ${inputs}`, isBuilt: true, place: (to, signal) => compileInit(sourceDir, to, signal) };
}

function shippedInit(dir: string, manifest: PrebuiltManifest): GuestInit {
  return {
    identity: `prebuilt ${manifest.files[INIT]?.sha256}`,
    isBuilt: false,
    async place(to, signal) {
      await unpackPrebuilt({ dir, name: INIT, manifest, to, mode: 0o755, signal });
      return manifest.tools['gcc'] ?? 'unknown';
    },
  };
}

/** @throws ImageError */
export async function compileInit(sourceDir: string, to: string, signal: AbortSignal): Promise<string> {
  await runTool('gcc', [...FLAGS, '-o', to, initSource(sourceDir)], { signal });
  return await firstLineOf('gcc', ['--version'], signal);
}

export async function digestInit(sourceDir: string): Promise<string> {
  return digestBytes(...FLAGS, await readFile(initSource(sourceDir)));
}

export const prebuiltInitDir = (sourceDir: string): string => join(sourceDir, 'guest', PREBUILT_DIR);

const initSource = (sourceDir: string): string => join(sourceDir, 'guest', 'init.c');
