import { mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readScript, SCRIPT_BYTES_MAX } from './script.ts';

let dir = '';
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'nv-script-'));
});
afterAll(() => rm(dir, { recursive: true }));

const none = Readable.from([]);
const refusal = (text: string) => expect.objectContaining({ code: 'usage', message: expect.stringContaining(text) });

describe('readScript', () => {
  it('reads a file, with its base name for tracebacks', async () => {
    await writeFile(join(dir, 'a.py'), 'print("é")\n');
    expect(await readScript(join(dir, 'a.py'), none)).toEqual({
      code: 'print("é")\n',
      filename: 'a.py',
      path: join(dir, 'a.py'),
      project: null,
    });
  });

  it('reads standard input for "-"', async () => {
    const script = await readScript('-', Readable.from([Buffer.from('x = 1\n')]));
    expect(script).toEqual({ code: 'x = 1\n', filename: '<stdin>', path: null, project: null });
  });

  it('refuses a missing file, with a hint when the suffix is missing', async () => {
    await expect(readScript(join(dir, 'no.py'), none)).rejects.toThrow(refusal('does not exist'));
    await expect(readScript(join(dir, 'no'), none)).rejects.toThrow(refusal('did you mean'));
  });

  it('refuses a directory without __main__.py', async () => {
    await expect(readScript(dir, none)).rejects.toThrow(refusal('is a directory'));
  });

  it('refuses a binary', async () => {
    await writeFile(join(dir, 'elf'), Buffer.from([0x7f, 0x45, 0x4c, 0x46, 0, 0, 1]));
    await expect(readScript(join(dir, 'elf'), none)).rejects.toThrow(refusal('is binary'));
  });

  it('refuses bytes that are not UTF-8', async () => {
    await writeFile(join(dir, 'latin.py'), Buffer.from([0x70, 0xe9, 0x0a]));
    await expect(readScript(join(dir, 'latin.py'), none)).rejects.toThrow(refusal('not UTF-8'));
  });

  it('refuses a script over the limit, from a file and from standard input', async () => {
    await writeFile(join(dir, 'big.py'), Buffer.alloc(SCRIPT_BYTES_MAX + 1, 0x20));
    await expect(readScript(join(dir, 'big.py'), none)).rejects.toThrow(refusal('larger than'));
    // The size of a device is zero.
    await symlink('/dev/zero', join(dir, 'zero.py'));
    await expect(readScript(join(dir, 'zero.py'), none)).rejects.toThrow(refusal('larger than'));
    const endless = Readable.from(
      (function* () {
        for (;;) yield Buffer.alloc(1024 * 1024, 0x20);
      })(),
    );
    await expect(readScript('-', endless)).rejects.toThrow(refusal('larger than'));
  });
});
