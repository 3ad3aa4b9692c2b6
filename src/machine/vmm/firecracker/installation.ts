/** Finds this host's Firecracker by running it. */
import { type ExecFileException, execFile } from 'node:child_process';
import { access, constants, open, realpath } from 'node:fs/promises';
import { join } from 'node:path';
import { ignore } from '../../../base/ignore.ts';
import { searchPath } from '../../../base/search-path.ts';
import { plain } from '../../../base/text/plain.ts';
import { VmmError } from '../errors.ts';
import { type FirecrackerVersion, parseVersion, VERSION_FLOOR, versionProblem } from './versions.ts';

const RUN_MS_MAX = 5_000;
const OUTPUT_BYTES_MAX = 64 * 1024;
const WORDS_MAX = 200;

type Program = 'Firecracker' | 'Jailer';

/** @throws VmmError `vmm_missing` if it is missing, can't be run or must not be used */
export async function readFirecrackerVersion(binary: string, msMax = RUN_MS_MAX): Promise<FirecrackerVersion> {
  return readVersion(binary, 'Firecracker', msMax);
}

/** The same for the jailer. */
export async function readJailerVersion(binary: string): Promise<FirecrackerVersion> {
  return readVersion(binary, 'Jailer', RUN_MS_MAX);
}

/**
 * @param binary a name in PATH, or a path
 * @returns its absolute path without symbolic links
 * @throws VmmError `vmm_missing`
 */
export async function findBinary(binary: string, program: Program = 'Firecracker'): Promise<string> {
  const folders = binary.includes('/') ? [''] : searchPath(process.env['PATH']).split(':');
  let isThere = false;
  for (const folder of folders) {
    try {
      const path = await realpath(folder === '' ? binary : join(folder, binary));
      isThere = true;
      await access(path, constants.X_OK);
      return path;
    } catch (error) {
      ignore(error, 'not in this folder');
    }
  }
  throw missing(binary, program, isThere ? 'it is not executable' : 'it is not installed');
}

async function readVersion(binary: string, program: Program, msMax: number): Promise<FirecrackerVersion> {
  const version = parseVersion(await run(binary, program, msMax), program);
  if (version === undefined) throw missing(binary, program, 'its output has no version');
  const problem = versionProblem(version);
  if (problem !== undefined) throw missing(binary, program, problem);
  return version;
}

async function run(binary: string, program: Program, msMax: number): Promise<string> {
  const path = await findBinary(binary, program);
  if (!(await isProgram(path))) throw missing(binary, program, 'it is not a program');
  const options = { timeout: msMax, killSignal: 'SIGKILL' as const, maxBuffer: OUTPUT_BYTES_MAX, env: {} };
  return await new Promise((resolve, reject) => {
    execFile(path, ['--version'], options, (error, stdout, stderr) => {
      if (error === null) resolve(stdout);
      else reject(missing(binary, program, explain(error, stderr, msMax)));
    });
  });
}

/** A file with neither signature would be run by a shell, whatever it is. */
async function isProgram(path: string): Promise<boolean> {
  await using file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK);
  if (!(await file.stat()).isFile()) return false;
  const { buffer, bytesRead } = await file.read(Buffer.alloc(4), 0, 4, 0);
  const head = buffer.toString('latin1', 0, bytesRead);
  return head === '\x7fELF' || head.startsWith('#!');
}

/** Returns one clause. */
function explain(error: ExecFileException, stderr: string, msMax: number): string {
  const { code, killed, signal } = error;
  if (code === 'ERR_CHILD_PROCESS_STDIO_MAXBUFFER') {
    return `it printed more than ${OUTPUT_BYTES_MAX / 1024} KiB for --version`;
  }
  if (killed === true) return `it did not answer --version within ${msMax} ms`;
  if (typeof signal === 'string') return `it was killed by ${signal}`;
  if (typeof code === 'string') return `it can't be run (${code})`;
  const [line = ''] = stderr.split('\n', 1);
  const words = plain(line.slice(0, WORDS_MAX)).trim();
  return `it ended with status ${code}${words === '' ? '' : `: ${words}`}`;
}

function missing(binary: string, program: Program, cause: string): VmmError {
  return new VmmError('vmm_missing', `${program} (${binary}) can't be used`, {
    cause,
    remedy: `Install Firecracker ${VERSION_FLOOR} or newer (docs/firecracker.md), or use QEMU.`,
  });
}
