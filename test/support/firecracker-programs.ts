/** A Firecracker that sandboxes accept, with its jailer: no package registry has a recent enough version. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  accessSync,
  constants,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { readConfig } from '../../src/base/config.ts';
import { resolveHome } from '../../src/base/home.ts';
import { searchPath } from '../../src/base/search-path.ts';
import { parseVersion, VERSION_FLOOR, versionProblem } from '../../src/machine/vmm/firecracker/versions.ts';
import { ROOT } from './cli.ts';

export interface FirecrackerPrograms {
  readonly firecracker: string;
  readonly jailer: string;
}

/** A directory beside the checkout with both programs, and their digests. */
export interface Offered {
  readonly dir: string;
  readonly sha256: FirecrackerPrograms;
}

/** Built from the tag of VERSION_FLOOR with Firecracker's own filters, static. */
const BESIDE: Offered = {
  dir: join(ROOT, '../shared/firecracker', VERSION_FLOOR),
  sha256: {
    firecracker: '6abb68d266a0c8886b63ed5410bcdaf568e955b95e2357ae5875e6b04179f093',
    jailer: '7a4f85357d748dc68eb9c24b158a9d7b9254d910981527befea2c263937c2dff',
  },
};
const NAMES = ['firecracker', 'jailer'] as const;

/**
 * Returns the programs named by variables, in PATH, or in the home's cache, or the reason why there are none.
 * @param offered copied into the cache if that has none
 */
export function supportedFirecracker(env: NodeJS.ProcessEnv, offered = BESIDE): FirecrackerPrograms | string {
  const { cacheDir } = resolveHome(readConfig(env).home);
  const kept = join(cacheDir, 'test-firecracker', VERSION_FLOOR);
  const path = `${searchPath(env['PATH'])}:${kept}`;
  const find = () => [
    env['NEUROVISOR_FIRECRACKER'] || findProgram('firecracker', path),
    env['NEUROVISOR_JAILER'] || findProgram('jailer', path),
  ];
  if (find().includes(undefined)) {
    const problem = keep(offered, kept);
    if (problem !== undefined) return problem;
  }
  const [firecracker, jailer] = find();
  if (firecracker === undefined || jailer === undefined) {
    return (
      `there is no Firecracker ${VERSION_FLOOR} or newer with its jailer: set NEUROVISOR_FIRECRACKER and ` +
      `NEUROVISOR_JAILER to those of github.com/firecracker-microvm/firecracker/releases, or put both into ${kept}`
    );
  }
  const problem = problemOf(firecracker, 'Firecracker') ?? problemOf(jailer, 'Jailer');
  return problem ?? { firecracker, jailer };
}

/** Returns the first file of this name in a list of directories in the form of PATH. */
export function findProgram(name: string, path: string): string | undefined {
  return path
    .split(':')
    .map((dir) => join(dir, name))
    .find((file) => existsSync(file));
}

/** Copies the offered programs. @returns why they must not be used */
function keep({ dir, sha256 }: Offered, kept: string): string | undefined {
  if (existsSync(kept) || NAMES.some((name) => !existsSync(join(dir, name)))) return undefined;
  mkdirSync(dirname(kept), { recursive: true, mode: 0o700 });
  const beside = mkdtempSync(`${kept}.`);
  try {
    for (const name of NAMES) {
      const bytes = readFileSync(join(dir, name));
      const digest = createHash('sha256').update(bytes).digest('hex');
      if (digest !== sha256[name]) {
        return `${join(dir, name)} has the digest ${digest}, not ${sha256[name]}: remove it`;
      }
      writeFileSync(join(beside, name), bytes, { mode: 0o755 });
    }
    renameSync(beside, kept);
  } catch (error) {
    // Another test file may have been faster.
    if (!existsSync(kept)) throw error;
  } finally {
    rmSync(beside, { recursive: true, force: true });
  }
  return undefined;
}

function problemOf(file: string, program: 'Firecracker' | 'Jailer'): string | undefined {
  try {
    accessSync(file, constants.X_OK);
    const output = execFileSync(file, ['--version'], { encoding: 'utf8', stdio: 'pipe' });
    const version = parseVersion(output, program);
    if (version === undefined) return `${file} is no ${program}`;
    const problem = versionProblem(version);
    return problem === undefined ? undefined : `${file}: ${problem}`;
  } catch (error) {
    return `${file} does not start: ${error instanceof Error ? error.message : String(error)}`;
  }
}
