import { spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  cpSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { MIB } from '../../base/units.ts';
import { closeFd, createMemFd } from '../../sys/fd.ts';
import { makeMemory } from './memory.ts';
import { SealedRam } from './sealed-ram.ts';

let dir = '';
let ram: SealedRam;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-ram-'));
  ram = new SealedRam();
});
afterEach(() => rmSync(dir, { recursive: true }));

function file(text: string): string {
  const path = join(dir, 'ram');
  writeFileSync(path, Buffer.concat([Buffer.from(text), Buffer.alloc(MIB - text.length)]));
  return path;
}
const textAt = (path: string): string => readFileSync(path).subarray(0, 3).toString();

describe('SealedRam', () => {
  it('copies a file once for all of its users, until the last one closes', async () => {
    const path = file('one');
    const [one, two] = await Promise.all([ram.map(path), ram.map(path)]);
    expect(two.path).toBe(one.path);
    rmSync(path);
    await one.close();
    await one.close();
    expect(textAt(two.path)).toBe('one');
    const fd = Number(two.path.split('/').at(-1));
    await two.close();
    expect(() => writeSync(fd, 'x')).toThrow('EBADF');
  });

  it('gives a file that was replaced a copy of its own', async () => {
    const one = await ram.map(file('one'));
    rmSync(join(dir, 'ram'));
    const two = await ram.map(file('two'));
    expect([textAt(one.path), textAt(two.path)]).toEqual(['one', 'two']);
    await Promise.all([one.close(), two.close()]);
  });

  it('seals what it gives out, and memory of ours without a copy', async () => {
    const memory = makeMemory(MIB);
    writeSync(memory.fd, 'own', 0);
    const [copied, own] = [await ram.map(file('one')), await ram.map(memory.path)];
    for (const mapped of [copied, own]) {
      const fd = openSync(mapped.path, 'r+');
      expect(() => writeSync(fd, 'x', 0)).toThrow('EPERM');
      closeFd(fd);
    }
    expect(() => writeSync(memory.fd, 'x', 0)).toThrow('EPERM');
    // It stays while a clone has it.
    memory.close();
    const target = createMemFd('target', MIB);
    await own.copyInto(`/proc/self/fd/${target}`);
    expect(textAt(`/proc/self/fd/${target}`)).toBe('own');
    closeFd(target);
    await Promise.all([copied.close(), own.close()]);
  });

  it('a copy stays until it is dropped', async () => {
    const shared = await ram.copy(file('one'));
    const first = await shared.open();
    await first.close();
    const again = await shared.open();
    expect(textAt(again.path)).toBe('one');
    await shared.drop();
    expect(textAt(again.path)).toBe('one');
    await again.close();
    await expect(shared.open()).rejects.toThrow('the RAM was dropped');
  });

  it('a copy does not depend on its file any more', async () => {
    const path = file('one');
    const shared = await ram.copy(path);
    // Another time of change, another file, none: what keeps a template's files can do all of it.
    chmodSync(path, 0o400);
    const changed = await shared.open();
    rmSync(path);
    file('two');
    const replaced = await shared.open();
    rmSync(path);
    const removed = await shared.open();
    expect([replaced.path, removed.path]).toEqual([changed.path, changed.path]);
    expect(textAt(removed.path)).toBe('one');
    await Promise.all([changed, replaced, removed].map((memory) => memory.close()));
    await shared.drop();
  });

  it('copies a file that can not be opened for writing', async () => {
    const path = join(dir, 'ram');
    cpSync('/bin/sleep', path);
    // Also root is refused while it runs: ETXTBSY.
    const running = spawn(path, ['60']);
    const ended = once(running, 'exit');
    try {
      await once(running, 'spawn');
      const mapped = await ram.map(path);
      expect(textAt(mapped.path)).toBe('\x7fEL');
      await mapped.close();
    } finally {
      running.kill('SIGKILL');
      await ended;
    }
  });

  it('fails for a file that is not there, and leaves nothing', async () => {
    await expect(ram.map(join(dir, 'none'))).rejects.toMatchObject({ code: 'ENOENT' });
  });
});
