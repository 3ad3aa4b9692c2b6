/**
 * The record of a green run of the nested layer. It is valid while all inputs of this layer are the same: the sources
 * that run VMs, the guest, its kernel and image, the probes, the policies, the nested host, its tests, and the
 * versions of the VMMs. Then `./neurovisor test all` prints the record instead of half an hour of emulation.
 */
import { createHash } from 'node:crypto';
import { globSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { minifySync } from 'rolldown/utils';
import { z } from 'zod';
import { ignore } from '../../src/base/ignore.ts';

/** Sources whose change invalidates a record, relative to the checkout. */
export const SEEN_BY_NESTED: readonly string[] = [
  'src/{base,sys,machine,sandbox}/**/*.ts',
  'src/egress/net/**/*.ts',
  'src/host/{probes,runtime}/**/*.ts',
  'prove/**/*.ts',
  'guest/{agent,builder}/**/*.{py,c}',
  'guest/init.c',
  '{kernel,image,bpf,policy}/**/*',
  'tools/nested/**/*',
  'test/nested/**/*',
  'test/support/nested*.ts',
  'test/fixtures/nested-vmm.py',
  'deploy/systemd/neurovisor.service',
];
/** Tests of the sources above do not concern the nested host. */
const NOT_SEEN = /\.(?:test|prop)\.ts$/;

const schema = z.object({
  key: z.string(),
  /** ISO 8601. */
  date: z.string(),
  /** Whether all cases ran (`--full`), or one smoke of both VMMs. */
  isFull: z.boolean(),
  passed: z.number().int().min(1),
});
export type NestedGreen = z.infer<typeof schema>;

/** @param versions of the nested host's programs, one per line */
export async function nestedKey(checkout: string, versions: string): Promise<string> {
  const names = globSync([...SEEN_BY_NESTED], { cwd: checkout, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(checkout.length + 1))
    .filter((name) => name.startsWith('test/') || !NOT_SEEN.test(name));
  const hash = createHash('sha256').update(`${versions.length}:${versions}`);
  for (const name of names.toSorted()) {
    const content = bytesOf(name, await readFile(join(checkout, name)));
    hash.update(`${name.length}:${name}${content.length}:`).update(content);
  }
  return hash.digest('hex').slice(0, 16);
}

/** The code of TypeScript without comments and layout, which change nothing that runs. */
function bytesOf(name: string, content: Buffer): Buffer {
  if (!name.endsWith('.ts')) return content;
  const { code, errors } = minifySync(name, content.toString('utf8'), { compress: false, mangle: false });
  return errors.length > 0 ? content : Buffer.from(code);
}

export const nestedRecordPath = (cacheDir: string): string => join(cacheDir, 'test-nested', 'green.json');

/** @returns undefined if there is none, or it has another key */
export async function readNestedGreen(path: string, key: string): Promise<NestedGreen | undefined> {
  try {
    const record = schema.parse(JSON.parse(await readFile(path, 'utf8')));
    return record.key === key ? record : undefined;
  } catch (error) {
    ignore(error, 'no record of a green run of the nested layer');
    return undefined;
  }
}

export async function writeNestedGreen(path: string, record: NestedGreen): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, `${JSON.stringify(record)}\n`);
}
