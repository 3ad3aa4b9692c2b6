/** The copy of the VMM's program for jails. */
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { searchPath } from '../../src/base/search-path.ts';
import { qemuFilter } from '../../src/host/runtime/jail.ts';
import { openJail } from '../../src/machine/jail/open.ts';
import { type ProgramTree, ProgramTrees } from '../../src/machine/jail/program-tree.ts';
import { listQemuFiles } from '../../src/machine/vmm/qemu/installation.ts';

const MACHINE = ['-machine', 'none', '-nodefaults', '-no-user-config', '-display', 'none', '-S'];
const UIDS = { first: 1_950_000_200, count: 8 };
const HOUR_S = 3600;
const DAY_S = 24 * HOUR_S;

let dir: string;
let base: string;
let program: string;
const opened: ProgramTrees[] = [];

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-jail-'));
  base = join(dir, 'base');
  program = join(dir, 'program');
  writeFileSync(program, 'one');
});
afterEach(async () => {
  for (const trees of opened.splice(0)) await trees.close();
  rmSync(dir, { recursive: true });
});

/** Opens the cache as another process does, with its own locks. */
function open(): ProgramTrees {
  const trees = new ProgramTrees(base, [program]);
  opened.push(trees);
  return trees;
}

const programIn = (tree: ProgramTree): string => readFileSync(join(tree.dir, program), 'utf8');

function age(tree: ProgramTree, ageS: number): void {
  const at = systemClock.wall() / 1_000 - ageS;
  utimesSync(dirname(tree.dir), at, at);
}

describe('ProgramTrees', () => {
  it('current: makes one tree, even for two calls at once', async () => {
    const trees = open();
    const [first, again] = await Promise.all([trees.current(), trees.current()]);
    expect(again).toBe(first);
    const [one, two] = await Promise.all([open().current(), open().current()]);
    expect([one.dir, two.dir]).toEqual([first.dir, first.dir]);
    expect(programIn(first)).toBe('one');
    expect(readdirSync(base)).toHaveLength(1);
  });

  it('current: makes a new tree after the program has changed', async () => {
    const trees = open();
    const first = await trees.current();
    writeFileSync(program, 'another');
    const [second, third] = await Promise.all([trees.current(), trees.current()]);
    expect(programIn(second)).toBe('another');
    expect(third).toBe(second);
    // A start in progress still uses the old tree.
    expect(programIn(first)).toBe('one');
  });

  it('current: fills an emptied cache again', async () => {
    const trees = open();
    rmSync(dirname((await trees.current()).dir), { recursive: true });
    expect(programIn(await trees.current())).toBe('one');
  });

  it('current: reports a missing program, and finds it when it is back', async () => {
    const trees = open();
    await trees.current();
    rmSync(program);
    await expect(trees.current()).rejects.toMatchObject({ code: 'jail_unavailable' });
    writeFileSync(program, 'again');
    expect(programIn(await trees.current())).toBe('again');
  });

  it('current: another process does not remove a tree in use, however old', async () => {
    const daemon = open();
    const used = await daemon.current();
    age(used, 31 * DAY_S);
    writeFileSync(program, 'another');
    const other = await open().current();
    expect(programIn(other)).toBe('another');
    expect(programIn(used)).toBe('one');
    await daemon.close();
    age(used, 2 * HOUR_S);
    await open().current();
    expect(existsSync(used.dir)).toBe(false);
    expect(existsSync(other.dir)).toBe(true);
  });

  it('current: removes trees unused for a month and unfinished ones', async () => {
    const trees = open();
    const idle = await trees.current();
    await trees.close();
    const half = join(base, `${'0'.repeat(32)}.1.1`);
    writeFileSync(program, 'another');
    age(idle, 1);
    await open().current();
    expect(existsSync(idle.dir)).toBe(true);
    age(idle, 31 * DAY_S);
    mkdirSync(half);
    utimesSync(half, 0, 0);
    await open().current();
    expect(existsSync(idle.dir)).toBe(false);
    expect(existsSync(half)).toBe(false);
  });
});

describe('openJail', () => {
  it('start: a VMM runs the program as updated while NeuroVisor runs', async () => {
    // As for /run, where production state is: others may pass.
    chmodSync(dir, 0o711);
    // A process was killed while it probed.
    mkdirSync(join(base, 'jail', 'probe'), { recursive: true, mode: 0o700 });
    writeFileSync(join(base, 'jail', 'probe', 'mounts.probe'), '');
    const path = searchPath(process.env['PATH']);
    const files = await listQemuFiles('qemu-system-x86_64', path);
    const jail = await openJail({
      cacheDir: base,
      stateDir: join(dir, 'state'),
      searchPath: path,
      log: silentLog,
      programFiles: [...files, program],
      filter: await qemuFilter('enforce'),
      probeArgs: ['--version'],
      uids: UIDS,
      deviceGid: null,
    });
    writeFileSync(program, 'updated');
    const jailed = await jail.start({
      id: 'updated',
      argv: [files[0] ?? '', ...MACHINE, '-chardev', 'socket,id=q,fd=3', '-mon', 'chardev=q'],
      stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
      dir,
      files: [],
      memoryMib: 64,
      cpus: 1,
    });
    const over = new Promise((resolve) => jailed.child.once('exit', resolve));
    const greeted = new Promise((resolve) => jailed.child.stdio[3]?.once('data', resolve));
    await Promise.race([greeted, over]);
    const had = readFileSync(join(`/proc/${await jailed.pid}/root`, program), 'utf8');
    jailed.kill();
    await over;
    await jailed.release();
    await jail.close();
    expect(had).toBe('updated');
  });
});
