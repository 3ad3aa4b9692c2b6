import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, it, onTestFinished } from 'vitest';
import { nestedKey, nestedRecordPath, readNestedGreen, writeNestedGreen } from './nested-record.ts';

async function checkout(files: Readonly<Record<string, string>>): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-nested-record-'));
  onTestFinished(() => rm(dir, { recursive: true }));
  for (const [name, text] of Object.entries(files)) {
    await mkdir(dirname(join(dir, name)), { recursive: true });
    await writeFile(join(dir, name), text);
  }
  return dir;
}

const FILES = {
  'src/machine/vmm/qemu/vm.ts': 'export const vm = 1;',
  'src/cli/main.ts': 'main',
  'guest/agent/a.py': 'agent',
  'test/nested/x.nested.test.ts': 'cases',
};

it('nestedKey: changes with what runs on the nested host, and with nothing else', async () => {
  const of = async (files: Readonly<Record<string, string>>, versions = 'QEMU 7.2') =>
    await nestedKey(await checkout({ ...FILES, ...files }), versions);
  const same = await of({});
  expect(await of({ 'src/cli/main.ts': 'other' })).toBe(same);
  expect(await of({ 'src/machine/vmm/qemu/vm.test.ts': 'a test' })).toBe(same);
  expect(await of({ 'src/machine/vmm/qemu/vm.ts': '/** A VM. */\nexport const vm =\n  1;' })).toBe(same);
  expect(await of({ 'src/machine/vmm/qemu/vm.ts': 'export const vm = 2;' })).not.toBe(same);
  expect(await of({ 'src/machine/vmm/qemu/vm.ts': 'no code' })).not.toBe(same);
  expect(await of({ 'guest/agent/a.py': '# agent' })).not.toBe(same);
  expect(await of({ 'policy/new.json': '{}' })).not.toBe(same);
  expect(await of({ 'test/nested/x.nested.test.ts': 'more cases' })).not.toBe(same);
  expect(await of({}, 'QEMU 8.2')).not.toBe(same);
});

it('readNestedGreen: accepts only a whole record of the same key', async () => {
  const path = nestedRecordPath(join(await checkout({}), 'cache'));
  expect(await readNestedGreen(path, 'k')).toBeUndefined();
  const record = { key: 'k', date: '2026-12-01T00:00:00.000Z', isFull: false, passed: 12 };
  await writeNestedGreen(path, record);
  expect(await readNestedGreen(path, 'k')).toEqual(record);
  expect(await readNestedGreen(path, 'other')).toBeUndefined();
  await writeNestedGreen(path, { ...record, passed: 0 });
  expect(await readNestedGreen(path, 'k')).toBeUndefined();
});
