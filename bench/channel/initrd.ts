/** An initial RAM disk with one static program, the entire system of the measured guest. */
import { execFile } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

const DIRECTORY_MODE = 0o040755;
const PROGRAM_MODE = 0o100755;

/**
 * Compiles a C file as /init into `<dir>/<name>.cpio`.
 * @throws if gcc or the static C library is missing.
 */
export async function buildInitrd(sourcePath: string, dir: string, name: string): Promise<string> {
  const program = join(dir, name);
  await promisify(execFile)('gcc', ['-O2', '-static', '-pthread', '-o', program, sourcePath]);
  const archive = `${program}.cpio`;
  await writeFile(
    archive,
    cpioArchive([
      { path: 'dev', mode: DIRECTORY_MODE, content: new Uint8Array(0) },
      { path: 'init', mode: PROGRAM_MODE, content: await readFile(program) },
    ]),
  );
  return archive;
}

/** The "newc" format (Linux, Documentation/driver-api/early-userspace/buffer-format.rst). */
function cpioArchive(files: readonly { path: string; mode: number; content: Uint8Array }[]): Uint8Array {
  const end = { path: 'TRAILER!!!', mode: 0, content: new Uint8Array(0) };
  const parts: Uint8Array[] = [];
  for (const [index, { path, mode, content }] of [...files, end].entries()) {
    const name = Buffer.from(`${path}\0`);
    // inode, mode, uid, gid, links, mtime, size, device ×2, special device ×2, name size, checksum
    const fields = [index + 1, mode, 0, 0, 1, 0, content.length, 0, 0, 0, 0, name.length, 0];
    const header = `070701${fields.map((field) => field.toString(16).padStart(8, '0')).join('')}`;
    parts.push(padded(Buffer.concat([Buffer.from(header), name])), padded(content));
  }
  return Buffer.concat(parts);
}

function padded(bytes: Uint8Array): Uint8Array {
  return Buffer.concat([bytes, Buffer.alloc((4 - (bytes.length % 4)) % 4)]);
}
