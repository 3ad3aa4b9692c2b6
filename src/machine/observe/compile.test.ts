import { appendFileSync, cpSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { objectOf, PROGRAMS, SOURCE_DIR } from './compile.ts';
import { objectName } from './shipped.ts';

let root: string;
let sourceDir: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'nv-bpf-'));
  sourceDir = join(root, 'bpf');
  cpSync(SOURCE_DIR, sourceDir, { recursive: true });
});
afterEach(() => rmSync(root, { recursive: true }));

const options = () => ({ dir: join(root, 'cache'), compiler: '/nowhere/clang', sourceDir });

describe('objectOf', () => {
  it('without a compiler: uses the shipped object of every program, and the cache stays empty', async () => {
    for (const program of PROGRAMS) {
      const path = await objectOf(program, options());
      expect(path).toBe(join(sourceDir, 'prebuilt', objectName(program)));
      // ELF for a BPF machine, with types.
      const bytes = readFileSync(path);
      expect(bytes.subarray(0, 4).toString('latin1')).toBe('\x7fELF');
      expect(bytes.readUInt16LE(18)).toBe(247);
      expect(bytes.includes('.BTF')).toBe(true);
    }
    expect(existsSync(options().dir)).toBe(false);
  });

  it('with other sources, the shipped object is not used', async () => {
    appendFileSync(join(sourceDir, 'log2.h'), '\n');
    await expect(objectOf('latency', options())).rejects.toMatchObject({
      code: 'no_compiler',
      message: expect.stringContaining('no object in bpf/prebuilt/ fits the sources'),
      remedy: expect.stringContaining('apt-get install clang libbpf-dev'),
    });
  });

  it.each([
    ['object', 'latency.bpf.o', /SHA-256/],
    ['manifest', 'manifest.json', /unreadable/],
  ])('a damaged %s is not used, and the error names it', async (_, name, why) => {
    writeFileSync(join(sourceDir, 'prebuilt', name), 'damaged');
    await expect(objectOf('latency', options())).rejects.toMatchObject({
      code: 'no_compiler',
      message: expect.stringMatching(why),
    });
  });
});
