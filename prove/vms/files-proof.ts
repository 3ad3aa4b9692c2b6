/**
 * Proves that a guest whose root answers in the agent's place can't choose where or under which name `cp` writes, fill
 * the host's memory with a listing, or control the terminal of a command by its errors.
 */
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';
import { sleep } from '../../src/base/clock.ts';
import { CodedError } from '../../src/base/errors.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB } from '../../src/base/units.ts';
import { failureText } from '../../src/cli/failure.ts';
import type { Runtime } from '../../src/host/runtime/runtime.ts';
import type { FileEntry, Guest } from '../../src/machine/guest/guest.ts';
import { ProofError } from '../errors.ts';
import { Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { openProofRuntime } from '../proof-runtime.ts';
import { MARK, STEERING, steers } from '../terminal.ts';

/** The hostile guest's answer for a path. */
interface Answer {
  readonly entry?: FileEntry;
  /** In place of an answer. */
  readonly reply?: string;
  readonly list?: readonly FileEntry[];
  /** A long listing: this many lines, each with a path of this many bytes. */
  readonly flood?: { readonly lines: number; readonly bytes: number };
  readonly content?: string;
}

interface Copy {
  readonly what: string;
  /** The requested path; the answers are for it and paths below it. */
  readonly source: string;
  readonly answers: Readonly<Record<string, Answer>>;
  /** The trees at the target afterwards, or the code of the error. */
  readonly expected: string;
}

const SIZE = { memoryMib: 192, diskMib: 64 } as const;
const EVIL = 'evil';
const AGENT = new URL('./hostile-agent.py', import.meta.url);
const READY = '/ready';
const READY_MS_MAX = 60_000;
const POLL_MS = 50;
const LISTINGS_AT_ONCE = 4;
/** Four listings of 8 MiB, as objects. Without limits they would be 4.8 GiB. */
const GROWTH_BYTES_MAX = 256 * MIB;

const entry = (name: string, more: Partial<FileEntry> = {}): FileEntry => ({
  name,
  path: `/x/${name}`,
  type: 'file',
  bytes: EVIL.length,
  mode: 0o644,
  owner: 'user',
  group: 'user',
  modifiedMs: 0,
  symlinkTarget: null,
  ...more,
});
const file = (name: string, more: Partial<FileEntry> = {}): Answer => ({ entry: entry(name, more), content: EVIL });
const directory = (name: string): FileEntry => entry(name, { type: 'directory', mode: 0o755 });
const link = (name: string, to: string): FileEntry => entry(name, { type: 'symlink', symlinkTarget: to });

/** @param outside a directory that must not change */
function copies(outside: string): readonly Copy[] {
  const named = (name: string, expected: string): Copy => ({
    what: `a listed name: ${JSON.stringify(name)}`,
    source: '/names',
    answers: { '/names': { entry: directory('names'), list: [entry(name)] }, [`/names/${name}`]: file(name) },
    expected,
  });
  return [
    {
      what: 'control: an honest answer',
      source: '/honest',
      answers: { '/honest': file('honest') },
      expected: 'honest=evil',
    },
    {
      what: 'another name at the top: a directory .ssh with authorized_keys',
      source: '/keys',
      answers: {
        '/keys': { entry: directory('.ssh'), list: [entry('authorized_keys')] },
        '/keys/authorized_keys': file('authorized_keys'),
      },
      expected: 'keys/ keys/authorized_keys=evil',
    },
    {
      what: 'another name at the top: .bashrc',
      source: '/profile',
      answers: { '/profile': file('.bashrc', { path: '/x/.bashrc' }) },
      expected: 'profile=evil',
    },
    {
      what: 'a link at the top',
      source: '/link',
      answers: { '/link': { entry: link('link', outside) } },
      expected: 'invalid_source',
    },
    named('../escape', 'hostile_name'),
    named('..', 'hostile_name'),
    named('/tmp/escape', 'hostile_name'),
    named('a/b', 'hostile_name'),
    named('', 'hostile_name'),
    {
      what: 'a name twice: a link, and a directory with files',
      source: '/twice',
      answers: {
        '/twice': { entry: directory('twice'), list: [link('a', outside), directory('a')] },
        '/twice/a': { entry: directory('a'), list: [entry('kept')] },
        '/twice/a/kept': file('kept'),
      },
      expected: 'hostile_name',
    },
    {
      what: 'a link, copied as such',
      source: '/planted',
      answers: { '/planted': { entry: directory('planted'), list: [link('a', outside)] } },
      expected: `planted/ planted/a>${outside}`,
    },
    {
      what: 'a directory where the last copy left that link',
      source: '/again/planted',
      answers: {
        '/again/planted': { entry: directory('planted'), list: [directory('a')] },
        '/again/planted/a': { entry: directory('a'), list: [entry('kept')] },
        '/again/planted/a/kept': file('kept'),
      },
      expected: 'in_the_way',
    },
    {
      what: 'a file with the setuid bit',
      source: '/setuid',
      answers: { '/setuid': file('setuid', { mode: 0o4755 }) },
      expected: 'setuid=evil',
    },
    {
      what: 'a device',
      source: '/device',
      answers: { '/device': { entry: entry('device', { type: 'other' }) } },
      expected: 'invalid_source',
    },
  ];
}

const FLOODS: readonly { readonly what: string; readonly path: string; readonly answer: Answer }[] = [
  {
    what: 'a listing of 20,000 entries of 4,000 bytes',
    path: '/flood',
    answer: { entry: directory('flood'), flood: { lines: 20_000, bytes: 4000 } },
  },
  {
    what: 'a listing with a path of 60,000 bytes',
    path: '/long',
    answer: { entry: directory('long'), flood: { lines: 1, bytes: 60_000 } },
  },
  {
    what: 'a listing of 100,000 entries',
    path: '/many',
    answer: { entry: directory('many'), flood: { lines: 100_000, bytes: 1 } },
  },
];

const REPLIES: Readonly<Record<string, Answer>> = {
  '/message': { reply: JSON.stringify({ ok: false, code: 'not_found', message: STEERING }) },
  '/no-json': { reply: STEERING },
};

export async function proveFiles({ config, log, copyOut }: JailContext): Promise<Proof> {
  if (copyOut === undefined) throw new ProofError('not_permitted', 'no program copies files here');
  const notes = new Notes();
  const dir = await mkdtemp(join(tmpdir(), 'nv-proof-files-'));
  const runtime = await openProofRuntime({ config, log });
  try {
    await using sandbox = await startHostile(runtime, dir);
    await proveCopies(sandbox.guest, dir, copyOut, notes);
    await proveListings(sandbox.guest, notes);
    await proveErrors(sandbox.guest, notes);
  } finally {
    await runtime.close();
    await rm(dir, { recursive: true, force: true });
  }
  return notes.proof('files');
}

/** Starts a sandbox whose root has taken the agent's place. */
async function startHostile(runtime: Runtime, dir: string): Promise<AsyncDisposable & { readonly guest: Guest }> {
  const sandbox = await runtime.startVm(SIZE);
  const guest = sandbox.guest();
  const answers = Object.assign(
    { [READY]: file('ready'), ...REPLIES },
    ...copies(join(dir, 'outside')).map((copy) => copy.answers),
    ...FLOODS.map(({ path, answer }) => ({ [path]: answer })),
  );
  const code = await readFile(AGENT, 'utf8');
  // Detached, since it takes the connections of its own start, too.
  const program = await guest.python({
    script: { code },
    args: [JSON.stringify(answers)],
    user: 'root',
    stdin: false,
    detached: true,
  });
  program.exit.catch((error: unknown) => ignore(error, 'its stream is closed'));
  const isHostile = async (): Promise<boolean> =>
    await guest.files.stat(READY).then(
      () => true,
      () => false,
    );
  for (let waitedMs = 0; !(await isHostile()); waitedMs += POLL_MS) {
    if (waitedMs > READY_MS_MAX) throw new ProofError('no_world', "the guest's root could not take the agent's place");
    await sleep(POLL_MS);
  }
  return { guest, [Symbol.asyncDispose]: async () => void (await sandbox.stop()) };
}

async function proveCopies(
  guest: Guest,
  dir: string,
  copyOut: NonNullable<JailContext['copyOut']>,
  notes: Notes,
): Promise<void> {
  const outside = join(dir, 'outside');
  const target = join(dir, 'target');
  await mkdir(outside);
  await mkdir(target);
  await writeFile(join(outside, 'kept'), 'mine');
  const before = await treeOf(dir, ['target']);
  for (const { what, source, expected } of copies(outside)) {
    const seen = await outcomeOf(() => copyOut(guest, source, target), target);
    notes.same(`cp, ${what}`, expected, seen);
    // The next copy would follow the link that this one left.
    if (source !== '/planted') await empty(target);
  }
  notes.same('cp: outside the target all is as before', before, await treeOf(dir, ['target']));
  await symlink(outside, join(dir, 'way'));
  const seen = await outcomeOf(() => copyOut(guest, '/honest', join(dir, 'way')), outside);
  notes.same('cp to a target that is a link', 'in_the_way', seen);
}

async function proveListings(guest: Guest, notes: Notes): Promise<void> {
  const before = process.memoryUsage().rss;
  for (const { what, path } of FLOODS) {
    const outcomes = await Promise.all(
      Array.from({ length: LISTINGS_AT_ONCE }, () => codeOf(() => guest.files.list(path))),
    );
    const seen = [...new Set(outcomes)].join(', ');
    const ok = outcomes.every((code) => code === 'too_large' || code === 'protocol_error');
    notes.note(what, 'too_large or protocol_error', seen, ok);
  }
  const grown = process.memoryUsage().rss - before;
  const limit = `less than ${GROWTH_BYTES_MAX / MIB} MiB`;
  const seen = `${Math.max(0, Math.round(grown / MIB))} MiB`;
  notes.note('memory that these listings took here', limit, seen, grown < GROWTH_BYTES_MAX);
}

async function proveErrors(guest: Guest, notes: Notes): Promise<void> {
  for (const path of Object.keys(REPLIES)) {
    const error: unknown = await guest.files.stat(path).catch((thrown: unknown) => thrown);
    const text = stripVTControlCharacters(failureText(error));
    notes.same(`control: the error for ${path} has the guest's text`, 'true', `${text.includes(MARK)}`);
    notes.same('… as a command prints it', 'harmless', steers(text) ? 'steers' : 'harmless');
  }
}

/** The tree at the target, or the code of the error. */
async function outcomeOf(copy: () => Promise<void>, target: string): Promise<string> {
  const code = await codeOf(copy);
  return code === 'done' ? await treeOf(target) : code;
}

async function codeOf(action: () => Promise<unknown>): Promise<string> {
  try {
    await action();
    return 'done';
  } catch (error) {
    if (error instanceof CodedError) return error.code;
    throw error;
  }
}

/** For example `keys/ keys/a=content keys/b>where`; shows files with bits above the permissions. */
async function treeOf(dir: string, except: readonly string[] = []): Promise<string> {
  const found: string[] = [];
  const walk = async (below: string): Promise<void> => {
    for (const name of (await readdir(join(dir, below))).sort()) {
      const path = join(below, name);
      if (except.includes(path)) continue;
      const at = join(dir, path);
      const status = await lstat(at);
      const special = status.mode & 0o7000;
      if (status.isSymbolicLink()) found.push(`${path}>${await readlink(at)}`);
      else if (status.isDirectory()) {
        found.push(`${path}/`);
        await walk(path);
      } else {
        const bits = special === 0 ? '' : `(${special.toString(8)})`;
        found.push(`${path}${bits}=${await readFile(at, 'utf8')}`);
      }
    }
  };
  await walk('');
  return found.join(' ');
}

async function empty(dir: string): Promise<void> {
  for (const name of await readdir(dir)) await rm(join(dir, name), { recursive: true });
}
