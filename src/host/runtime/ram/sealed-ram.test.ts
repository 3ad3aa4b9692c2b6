import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  cpSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { eventually } from '../../../../test/support/eventually.ts';
import { FakeClock } from '../../../base/clock.ts';
import { MIB, STAT_BLOCK_BYTES } from '../../../base/units.ts';
import type { MappedMemory } from '../../../sandbox/contract/parts.ts';
import { SHARED_SIZE } from '../../../sandbox/memory/shared-size.ts';
import { closeFd, createMemFd } from '../../../sys/fd.ts';
import { digestSparse } from '../../../sys/sparse.ts';
import { makeMemory } from './memory.ts';
import { UNUSED_MS_MAX } from './parts.ts';
import { SealedRam } from './sealed-ram.ts';

const PAGE_BYTES = 4096;
let dir = '';
let ram: SealedRam;
let clock: FakeClock;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-ram-'));
  clock = new FakeClock();
  ram = new SealedRam(clock);
});
afterEach(async () => {
  await ram.close();
  rmSync(dir, { recursive: true });
});

/** Waits until the memory is complete. */
async function whole(opening: Promise<MappedMemory>): Promise<MappedMemory> {
  const memory = await opening;
  await memory.ready;
  return memory;
}
const map = (path: string): Promise<MappedMemory> => whole(ram.map({ path }, 'us'));

function file(text: string): string {
  const path = join(dir, 'ram');
  writeFileSync(path, Buffer.concat([Buffer.from(text), Buffer.alloc(MIB - text.length)]));
  return path;
}
/** Writes to pages as a VMM does, which has the memory mapped privately. */
function touch(path: string, from: number, pages: number): void {
  const program = `import mmap, sys
path, start, pages = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with open(path, 'rb') as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as ram:
    for page in range(pages):
        ram[start + page * ${PAGE_BYTES}] = 1`;
  const ours = path.replace('self', `${process.pid}`);
  execFileSync('python3', ['-c', program, ours, `${from}`, `${pages}`]);
}
const textAt = (path: string): string => readFileSync(path).subarray(0, 3).toString();

describe('SealedRam', () => {
  it('copies a file once for all sharers, until a minute after the last one has closed', async () => {
    const path = file('one');
    const [one, two] = await Promise.all([map(path), map(path)]);
    expect(two.path).toBe(one.path);
    expect(ram.bytes).toBe(MIB);
    rmSync(path);
    await one.close();
    await one.close();
    clock.advance(2 * UNUSED_MS_MAX);
    expect(textAt(two.path)).toBe('one');
    const fd = Number(two.path.split('/').at(-1));
    await two.close();
    clock.advance(UNUSED_MS_MAX - 1);
    expect(ram.bytes).toBe(MIB);
    clock.advance(1);
    expect(ram.bytes).toBe(0);
    await eventually(() => expect(() => writeSync(fd, 'x')).toThrow('EBADF'));
  });

  it('gives each group of sharers memory of its own', async () => {
    const path = file('one');
    const [ours, theirs] = [await map(path), await whole(ram.map({ path }, 'them'))];
    const inode = (memory: MappedMemory): number => statSync(memory.path).ino;
    expect(inode(theirs)).not.toBe(inode(ours));
    expect([textAt(ours.path), textAt(theirs.path)]).toEqual(['one', 'one']);
    expect(ram.bytes).toBe(2 * MIB);
    await Promise.all([ours.close(), theirs.close()]);
  });

  it('files with the same content are one memory', async () => {
    const first = file('one');
    const second = join(dir, 'second');
    cpSync(first, second);
    const [one, two] = await Promise.all(
      [first, second].map((path) => whole(ram.map({ path, digest: 'of one' }, 'us'))),
    );
    expect(two?.path).toBe(one?.path);
    await Promise.all([one?.close(), two?.close()]);
  });

  it('a new user within the minute: the memory stays', async () => {
    const shared = await ram.copy({ path: file('one') });
    const first = await whole(shared.open('us'));
    await first.close();
    clock.advance(UNUSED_MS_MAX - 1);
    const second = await whole(shared.open('us'));
    clock.advance(UNUSED_MS_MAX);
    expect(second.path).toBe(first.path);
    expect(textAt(second.path)).toBe('one');
    await second.close();
    await shared.drop();
  });

  it('a replaced file gets a copy of its own', async () => {
    const one = await map(file('one'));
    rmSync(join(dir, 'ram'));
    const two = await map(file('two'));
    expect([textAt(one.path), textAt(two.path)]).toEqual(['one', 'two']);
    await Promise.all([one.close(), two.close()]);
  });

  it('seals copies, and memory of this process without copying it', async () => {
    const memory = makeMemory(MIB);
    writeSync(memory.fd, 'own', 0);
    const [copied, own] = [await map(file('one')), await map(memory.path)];
    for (const mapped of [copied, own]) {
      const fd = openSync(mapped.path, 'r+');
      expect(() => writeSync(fd, 'x', 0)).toThrow('EPERM');
      closeFd(fd);
    }
    expect(() => writeSync(memory.fd, 'x', 0)).toThrow('EPERM');
    // The memory stays while a clone has it.
    memory.close();
    const target = createMemFd('target', MIB);
    await own.copyInto(`/proc/self/fd/${target}`);
    expect(textAt(`/proc/self/fd/${target}`)).toBe('own');
    closeFd(target);
    await Promise.all([copied.close(), own.close()]);
  });

  it('bytes: counts each memory once, however many use it, and only allocated pages', async () => {
    const memory = makeMemory(64 * MIB);
    writeSync(memory.fd, 'own', PAGE_BYTES);
    const own = [await map(memory.path), await map(memory.path)];
    expect(ram.bytes).toBe(PAGE_BYTES);
    memory.close();
    await own[0]?.close();
    expect(ram.bytes).toBe(PAGE_BYTES);
    await own[1]?.close();
    expect(ram.bytes).toBe(0);
  });

  it('dropUnused: frees unused memory at once, never memory in use or coming into use', async () => {
    const paths = ['one', 'two', 'six'].map((text) => {
      const path = join(dir, text);
      writeFileSync(path, Buffer.alloc(MIB, text));
      return path;
    });
    const [one, two, six] = await Promise.all(paths.map(map));
    expect(ram.unusedBytes).toBe(0);
    await ram.dropUnused();
    expect(ram.bytes).toBe(3 * MIB);
    await Promise.all([two?.close(), six?.close()]);
    expect([ram.unusedBytes, ram.bytes]).toEqual([2 * MIB, 3 * MIB]);
    const again = await map(paths[2] ?? '');
    const dropping = ram.dropUnused();
    expect([ram.unusedBytes, ram.bytes]).toEqual([0, 2 * MIB]);
    await dropping;
    expect(textAt(one?.path ?? '')).toBe('one');
    expect(textAt(again.path)).toBe('six');
    // The next user causes another copy.
    const late = await map(paths[1] ?? '');
    expect(textAt(late.path)).toBe('two');
    clock.advance(2 * UNUSED_MS_MAX);
    await Promise.all([one, again, late].map((memory) => memory?.close()));
  });

  it('the copy for each group of sharers is missing until it exists, then pending', async () => {
    const size = 64 * MIB;
    const data = 8 * MIB;
    const path = join(dir, 'ram');
    writeFileSync(path, Buffer.alloc(data, 'x'));
    truncateSync(path, size);
    const shared = await ram.copy({ path });
    const need = shared.needOf('us');
    const missing = (): number => (need?.missingMib() ?? 0) * MIB;
    const expected = data + SHARED_SIZE.leastBytes;
    // The file system may count a block of its own.
    const ofFile = statSync(path).blocks * STAT_BLOCK_BYTES + SHARED_SIZE.leastBytes;
    const sum = (): number => missing() + ram.pendingBytes + ram.bytes;
    expect([missing(), ram.pendingBytes]).toEqual([ofFile, 0]);
    // The same for a file that is opened by its name.
    const named = ram.needOf({ path }, 'us');
    expect([named?.key, named?.missingMib()]).toEqual([need?.key, need?.missingMib()]);
    expect(ram.needOf({ path: join(dir, 'gone') }, 'us')).toBeUndefined();
    const opening = await shared.open('us');
    // Also while it is copied: nothing counts twice, nothing is forgotten.
    expect([missing(), sum()]).toEqual([0, ofFile]);
    await opening.ready;
    expect([missing(), sum(), ram.bytes]).toEqual([0, expected, data]);
    expect(shared.needOf('them')?.key).not.toBe(need?.key);
    expect(shared.needOf('them')?.missingMib()).toBe(ofFile / MIB);
    touch(opening.path, data, 6000);
    const grown = ram.bytes - data;
    // A private mapping only reads these pages, so a busy kernel may take some of them back.
    expect(grown).toBeGreaterThanOrEqual(5000 * PAGE_BYTES);
    expect(sum()).toBe(expected);
    touch(opening.path, data, 8000);
    const more = (ram.bytes - data) * SHARED_SIZE.margin;
    expect(sum()).toBe(Math.min(size, data + more));
    await opening.close();
    // The memory no longer grows, but its next user makes it.
    expect(ram.pendingBytes).toBe(0);
    expect(missing()).toBe(Math.min(size, data + more) - ram.bytes);
    // Its growth is expected for the next copy, and for other groups' copies.
    await ram.dropUnused();
    expect(missing()).toBe(Math.min(size, ofFile - SHARED_SIZE.leastBytes + more));
    expect(shared.needOf('them')?.missingMib()).toBe(need?.missingMib());
    await shared.drop();
  });

  it('memory of this process that is sealed in place: nothing is missing, and it may grow to its size', async () => {
    const memory = makeMemory(8 * MIB);
    writeSync(memory.fd, 'own', 0);
    expect(ram.needOf({ path: memory.path }, 'us')).toBeUndefined();
    const own = await map(memory.path);
    expect(ram.pendingBytes).toBe(8 * MIB - PAGE_BYTES);
    await own.close();
    expect(ram.pendingBytes).toBe(0);
    memory.close();
  });

  it('a file can be used until it is dropped; its users keep it longer', async () => {
    const shared = await ram.copy({ path: file('one') });
    const first = await whole(shared.open('us'));
    await first.close();
    const again = await whole(shared.open('us'));
    await shared.drop();
    await shared.drop();
    expect(textAt(again.path)).toBe('one');
    await again.close();
    await expect(shared.open('us')).rejects.toThrow('the RAM was dropped');
  });

  it('an opened file no longer depends on its name', async () => {
    const path = file('one');
    const shared = await ram.copy({ path });
    // Another ctime, another file, no file: the cache of templates may do all of it.
    chmodSync(path, 0o400);
    rmSync(path);
    file('two');
    const memory = await whole(shared.open('us'));
    expect(textAt(memory.path)).toBe('one');
    await memory.close();
    await shared.drop();
  });

  it('close: leaves no file open that was not dropped', async () => {
    const before = readdirSync('/proc/self/fd').length;
    const shared = await ram.copy({ path: file('one') });
    const memory = await whole(shared.open('us'));
    await memory.close();
    await ram.close();
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
    await shared.drop();
  });

  it('refuses a file that was written to after it had been opened', async () => {
    const path = file('one');
    const shared = await ram.copy({ path });
    writeFileSync(path, 'two', { flag: 'r+' });
    utimesSync(path, 1, 1);
    const memory = await shared.open('us');
    await expect(memory.ready).rejects.toThrow('the RAM file was written to');
    await expect(memory.copyInto('/dev/null')).rejects.toThrow('the RAM file was written to');
    await memory.close();
    expect(ram.bytes).toBe(0);
    await shared.drop();
  });

  it('copies a file that can not be opened for writing', async () => {
    const path = join(dir, 'ram');
    cpSync('/bin/sleep', path);
    // While it runs, root is refused, too: ETXTBSY.
    const running = spawn(path, ['60']);
    const ended = once(running, 'exit');
    try {
      await once(running, 'spawn');
      const mapped = await map(path);
      expect(textAt(mapped.path)).toBe('\x7fEL');
      await mapped.close();
    } finally {
      running.kill('SIGKILL');
      await ended;
    }
  });

  it('fails for a missing file, and leaves nothing behind', async () => {
    await expect(map(join(dir, 'none'))).rejects.toMatchObject({ code: 'ENOENT' });
  });

  it('base: the digest of the mapping, and one more user of it', async () => {
    const path = file('one');
    const digest = await digestSparse(path);
    const memory = makeMemory(MIB);
    writeSync(memory.fd, 'one', 0);
    for (const from of [path, memory.path]) {
      const one = await map(from);
      const two = await one.base?.open();
      expect(await one.base?.digest()).toBe(digest);
      expect(await two?.base?.digest()).toBe(digest);
      expect(statSync(two?.path ?? '').ino).toBe(statSync(one.path).ino);
      expect(one.base?.dataBytes).toBeLessThanOrEqual(MIB);
      expect(one.base?.dataBytes).toBeGreaterThan(0);
      await one.close();
      expect(textAt(two?.path ?? '')).toBe('one');
      await two?.close();
    }
    memory.close();
    // Its owner has verified it.
    const known = await ram.map({ path: file('two'), digest: 'of two' }, 'us');
    expect(await known.base?.digest()).toBe('of two');
    await known.close();
  });
});
