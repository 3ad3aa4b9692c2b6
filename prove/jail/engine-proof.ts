/**
 * Proves that a compromised engine finds nothing of the host and can make none of the calls that lead out. Its model is
 * a pipe without a writer, so the proof needs no model, and the engine stays as it is while it loads.
 */
import { execFile } from 'node:child_process';
import { chmodSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { sleep, systemClock } from '../../src/base/clock.ts';
import { resolveHome } from '../../src/base/home.ts';
import { type EngineJail, openEngineJail } from '../../src/host/runtime/engine-jail.ts';
import { type Engine, startEngine } from '../../src/inference/engine/process.ts';
import { ProofError } from '../errors.ts';
import { Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { statusOf } from './caps-proof.ts';
import { Injector, type SystemCall } from './inject.ts';
import { FORBIDDEN } from './seccomp-proof.ts';

const NONE = '0000000000000000';
const AT_FDCWD = 0xffff_ff9c;
const NAMESPACES = ['user', 'mnt', 'pid', 'net', 'ipc', 'uts', 'cgroup'];
const EAFNOSUPPORT = 'returned -97';
/** Calls of `FORBIDDEN` that kill the engine. */
const ENDING = ['mount', 'unshare', 'setns', 'ptrace', 'bpf', 'keyctl', 'init_module', 'userfaultfd'];
/** Calls of `FORBIDDEN` that libraries try but do not need, and how they fail. */
const FAILING = new Map([
  ['clone3', 'returned -38'],
  ['io_uring_setup', 'returned -38'],
  ['perf_event_open', 'returned -1'],
]);
const SOCKETS: readonly SystemCall[] = [
  { name: 'socket to the internet', number: 41, args: [2, 1, 0] },
  { name: 'socket to the internet (IPv6)', number: 41, args: [10, 1, 0] },
  { name: 'raw packets', number: 41, args: [17, 3, 0] },
  { name: 'netlink', number: 41, args: [16, 3, 0] },
];

export async function proveEngine(context: JailContext): Promise<Proof> {
  const notes = new Notes();
  await using injector = await Injector.make();
  await using engines = await Engines.open(context);
  const jailed = await engines.start(true);
  const free = await engines.start(false);
  looks(notes, jailed.pid, free.pid);
  await opens(notes, injector, [jailed.pid, free.pid]);
  for (const call of SOCKETS) {
    notes.same(call.name, EAFNOSUPPORT, await injector.call(jailed.pid, call));
    const seen = await injector.call(free.pid, call);
    notes.note(`control: ${call.name} without a jail`, 'a descriptor', seen, /^returned \d+$/.test(seen));
  }
  for (const call of FORBIDDEN) {
    const failure = FAILING.get(call.name);
    if (failure === undefined && !ENDING.includes(call.name)) continue;
    if (failure !== undefined) notes.same(call.name, failure, await injector.call(jailed.pid, call));
    else notes.same(call.name, 'ended by SIGSYS', await endOf(await engines.start(true), injector, call));
    const seen = await injector.call(free.pid, call);
    const differs = /^returned/.test(seen) && seen !== failure;
    notes.note(`control: ${call.name} without a jail`, 'another answer', seen, differs);
  }
  return notes.proof('engine');
}

/** How it ended, by the status of its process. */
async function endOf(engine: Engine, injector: Injector, call: SystemCall): Promise<string> {
  const seen = await injector.call(engine.pid, call);
  if (!seen.startsWith('killed')) return seen;
  const [, signal] = /\((\w+)\)$/.exec((await engine.exited)?.message ?? '') ?? [];
  return `ended by ${signal}`;
}

function looks(notes: Notes, jailed: number, free: number): void {
  const [own, other] = [statusOf(jailed), statusOf(free)];
  const user = (of: Map<string, string>): string => `${of.get('Uid')} / ${of.get('Gid')}`;
  notes.note('its users and groups on the host', 'none is 0', user(own), !/\b0\b/.test(user(own)));
  notes.same('control: those of an engine without a jail', '0 0 0 0 / 0 0 0 0', user(other));
  for (const name of ['CapPrm', 'CapEff', 'CapBnd']) notes.same(name, NONE, own.get(name) ?? '');
  const unsafe = readdirSync(`/proc/${jailed}/task`).filter((task) => {
    const thread = statusOf(jailed, task);
    return thread.get('Seccomp') !== '2' || thread.get('NoNewPrivs') !== '1';
  });
  notes.same('threads without a filter', '0', String(unsafe.length));
  notes.same('control: Seccomp without a jail', '0', other.get('Seccomp') ?? '');
  for (const name of NAMESPACES) {
    const link = (pid: number | string): string => readlinkSync(`/proc/${pid}/ns/${name}`);
    const [is, isFree] = [jailed, free].map((pid) => (link(pid) === link('self') ? 'the host’s' : 'its own'));
    notes.same(`namespace ${name}`, 'its own', is ?? '');
    notes.same(`control: ${name} without a jail`, 'the host’s', isFree ?? '');
  }
  const mounts = readFileSync(`/proc/${jailed}/mounts`, 'utf8').trim().split('\n');
  const writable = mounts
    .map((line) => line.split(' '))
    .filter(([, path = '', , options = '']) => !options.split(',').includes('ro') && !path.startsWith('/dev/'));
  notes.same('its writable mounts', 'none', writable.map(([, path]) => path).join(' ') || 'none');
  const seen = readdirSync(join(`/proc/${jailed}`, 'root', 'proc'))
    .sort()
    .join(' ');
  notes.note('processes that it sees', 'itself', seen, !/\d/.test(seen));
}

async function opens(notes: Notes, injector: Injector, [jailed = 0, free = 0]: number[]): Promise<void> {
  for (const path of ['/etc/shadow', '/etc/passwd', join(homedir(), '.'), '/proc/1/status', '/run/.']) {
    const call = { name: path, number: 257, args: [AT_FDCWD, `@${path}`, 0, 0] };
    const seen = await injector.call(jailed, call);
    // The path to the model may lead through the home, which then holds only that.
    const isEmpty = path === join(homedir(), '.') && /^returned \d/.test(seen);
    const shown = isEmpty ? readdirSync(join(`/proc/${jailed}/root`, path)).join(' ') : seen;
    const hidden = readdirSync(homedir()).filter((name) => !name.startsWith('.neurovisor'));
    const ok = isEmpty ? !hidden.some((name) => shown.split(' ').includes(name)) : seen === 'returned -2';
    notes.note(`open ${path}`, 'not found, or only the way to its own files', shown, ok);
    const control = await injector.call(free, call);
    notes.note(`control: open ${path} without a jail`, 'a descriptor', control, /^returned \d/.test(control));
  }
}

/**
 * Waits until the engine creates no more threads: the injector takes one created during a call for a child, and kills
 * it.
 */
async function quiet(pid: number): Promise<void> {
  let threads = 0;
  for (let same = 0; same < QUIET_POLLS; same += 1) {
    await sleep(QUIET_POLL_MS);
    const now = readdirSync(`/proc/${pid}/task`).length;
    if (now !== threads) same = 0;
    threads = now;
  }
}

const QUIET_POLL_MS = 50;
const QUIET_POLLS = 10;

/** Starts engines; its disposal ends them. */
class Engines implements AsyncDisposable {
  readonly #dir: string;
  readonly #context: JailContext;
  readonly #running: { engine: Engine; jail: EngineJail | null }[] = [];
  #count = 0;

  private constructor(dir: string, context: JailContext) {
    this.#dir = dir;
    this.#context = context;
  }

  static async open(context: JailContext): Promise<Engines> {
    if (process.geteuid?.() !== 0) {
      throw new ProofError('not_permitted', 'could not inspect the engine', { remedy: 'Run it as root.' });
    }
    const dir = await mkdtemp(join(tmpdir(), 'nv-prove-'));
    await promisify(execFile)('mkfifo', [join(dir, 'model')]);
    chmodSync(join(dir, 'model'), 0o644);
    return new Engines(dir, context);
  }

  /** @throws RuntimeError `jail_unavailable`; EngineError */
  async start(isJailed: boolean): Promise<Engine> {
    const { config, log } = this.#context;
    this.#count += 1;
    const id = `prove${this.#count}`;
    const jail = isJailed
      ? await openEngineJail({
          config: { ...config, jail: 'enforce', gpu: 'cpu' },
          cacheDir: resolveHome(config.home).cacheDir,
          log,
          id,
          dir: this.#dir,
          acceptsGaps: true,
        })
      : null;
    const engine = await startEngine({
      modelPath: join(this.#dir, 'model'),
      modelId: 'none',
      socketPath: join(this.#dir, id),
      gpu: 'cpu',
      log: { ...log, error: () => undefined },
      clock: systemClock,
      ...(jail === null ? {} : { launch: jail.launch }),
    });
    this.#running.push({ engine, jail });
    await quiet(engine.pid);
    return engine;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { engine, jail } of this.#running) {
      await engine.stop();
      await jail?.close();
    }
    await rm(this.#dir, { recursive: true, force: true });
  }
}
