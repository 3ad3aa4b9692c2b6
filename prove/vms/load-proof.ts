/** Proves that a jailed VMM under mixed load makes no refused syscall, and that each thread keeps its filter. */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { sleep } from '../../src/base/clock.ts';
import { describeError } from '../../src/base/errors.ts';
import { ignore } from '../../src/base/ignore.ts';
import { MIB } from '../../src/base/units.ts';
import { openControlPlane } from '../../src/host/runtime/control.ts';
import { Injector } from '../jail/inject.ts';
import { Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { openProofRuntime } from '../proof-runtime.ts';
import { vmmOf } from '../vmm-of.ts';

type Control = Awaited<ReturnType<typeof openControlPlane>>['control'];
type Guest = Awaited<ReturnType<Control['guest']>>;

/** Default duration, milliseconds. */
const LOAD_MS = 60_000;
const SIZE = { memoryMib: 256, diskMib: 128 } as const;
const FILE_BYTES = MIB;
const GUEST_PORT = 8000;
const START_MS_MAX = 60_000;
const START_GAP_MS = 200;
const OUTPUT_BYTES_MAX = 64 * 1024;
/** In rounds, from the first on: a pause to disk, which restarts the VMM, and a snapshot. */
const [DISK_EVERY, SNAPSHOT_EVERY] = [4, 3];
const ANSWER = 'ok of the load';
const UNSHARE = { name: 'unshare', number: 272, args: [0] };
const VIOLATIONS = /^neurovisor_seccomp_violations_total\{[^}]*\} (\d+)$/gm;

const ASK = `
import json, os, urllib.request
url = os.environ['OPENAI_BASE_URL'] + '/chat/completions'
body = {'model': 'load', 'messages': [{'role': 'user', 'content': 'x' * 20000}]}
asked = urllib.request.Request(url, json.dumps(body).encode(), {'content-type': 'application/json'})
print(json.load(urllib.request.urlopen(asked))['choices'][0]['message']['content'])
`;
const WORK = 'import hashlib; print(hashlib.sha256(bytes(8 << 20)).hexdigest()[:8])';

export async function proveLoad(context: JailContext): Promise<Proof> {
  const { log, loadMs = LOAD_MS, signal } = context;
  const notes = new Notes();
  await using injector = await Injector.make();
  const dir = await mkdtemp(join(tmpdir(), 'nv-prove-'));
  await using model = await serveModel(join(dir, 'model'));
  const runtime = await openProofRuntime(context, { jail: 'enforce', upstream: model.address });
  try {
    await using opened = await openControlPlane(runtime, log, { dataDir: join(dir, 'data') });
    const { control } = opened;
    const { id } = await control.create(SIZE);
    const guest = await control.guest(id);
    const serve = ['python3', '-m', 'http.server', `${GUEST_PORT}`, '--bind', '127.0.0.1'];
    const server = await guest.exec({ argv: serve, detached: true, stdin: false });
    server.stdout.resume();
    server.stderr.resume();
    server.exit.catch((error: unknown) => ignore(error, 'the server outlives its connection'));
    await answers(guest, signal);
    const load = new Load(control, id, () => vmmOf(runtime, id));
    const tookMs = await load.run(loadMs, signal);
    load.tell(notes, tookMs, loadMs);
    const violations = async (): Promise<number> => sumOf(await runtime.metrics.registry.text(), VIOLATIONS);
    notes.same('system calls that its filter refused', '0', `${await violations()}`);
    const ended = new Promise<string | undefined>((resolve) => {
      control.onChange((info) => {
        if (info.id === id && info.end !== null) resolve(info.end.cause);
      });
    });
    await injector.call(await vmmOf(runtime, id), UNSHARE);
    notes.same('control: a VMM that calls unshare ends', 'seccomp-violation', `${await ended}`);
    notes.same('control: and is counted', '1', `${await violations()}`);
  } finally {
    await runtime.close();
    await rm(dir, { recursive: true, force: true });
  }
  return notes.proof('load');
}

/** The repeated work in one sandbox; the VMM is paused only while nothing else runs. */
class Load {
  readonly #control: Control;
  readonly #id: string;
  readonly #vmm: () => Promise<number>;
  readonly #done = new Map<string, number>();
  readonly #failed = new Map<string, string>();
  readonly #vmms = new Set<number>();
  #threads = 0;
  #unfiltered = '';

  constructor(control: Control, id: string, vmm: () => Promise<number>) {
    this.#control = control;
    this.#id = id;
    this.#vmm = vmm;
  }

  /** @returns the elapsed time, at least `durationMs` */
  async run(durationMs: number, signal?: AbortSignal): Promise<number> {
    const began = performance.now();
    for (let round = 1; performance.now() - began < durationMs; round += 1) {
      signal?.throwIfAborted();
      await this.#together(await this.#control.guest(this.#id));
      await this.#do('pauses to memory', () => this.#pause('memory'));
      if (round % SNAPSHOT_EVERY === 1) await this.#do('snapshots', () => this.#snapshot());
      if (round % DISK_EVERY === 1) await this.#do('pauses to disk', () => this.#pause('disk'));
      await this.#look();
    }
    return performance.now() - began;
  }

  tell(notes: Notes, tookMs: number, durationMs: number): void {
    const minutes = (ms: number): string => `${(ms / 60_000).toFixed(1)} minutes`;
    const isLong = tookMs >= durationMs;
    notes.note('duration of the load', minutes(durationMs), minutes(tookMs), isLong);
    for (const what of [...this.#done.keys(), ...this.#failed.keys()].filter(isFirst)) {
      const failed = this.#failed.get(what);
      const seen = failed === undefined ? `${this.#done.get(what)} succeeded` : `failed: ${failed}`;
      notes.note(what, 'all succeed', seen, failed === undefined);
    }
    notes.note(
      'each thread of its VMMs, after each round',
      'Seccomp 2, NoNewPrivs 1',
      this.#unfiltered || `Seccomp 2, NoNewPrivs 1: ${this.#threads} checks, ${this.#vmms.size} VMMs`,
      this.#unfiltered === '' && this.#threads > 0,
    );
  }

  async #together(guest: Guest): Promise<void> {
    const { files } = guest;
    const content = Buffer.alloc(FILE_BYTES, 7);
    await Promise.all([
      this.#do('programs', () => said(guest, ['sh', '-c', 'seq 1 2000 | wc -l'], '2000')),
      this.#do('programs', () => said(guest, ['python3', '-c', WORK], '2daeb1f3')),
      this.#do('programs', () => said(guest, ['sh', '-c', 'find /usr/lib | wc -l; sync'], '')),
      this.#do('model requests', () => said(guest, ['python3', '-c', ASK], ANSWER)),
      this.#do('model requests', () => said(guest, ['python3', '-c', ASK], ANSWER)),
      this.#do('files', async () => {
        await files.write('load/a', content);
        if (!content.equals(await files.readAll('load/a'))) throw new Error('it has changed');
        await files.list('load');
        await files.remove('load');
      }),
      this.#do('connections to a port', async () => {
        const answer = await fetchPort(guest);
        if (!answer.startsWith('HTTP')) throw new Error(JSON.stringify(answer.slice(0, 40)));
      }),
    ]);
  }

  async #do(what: string, work: () => Promise<unknown>): Promise<void> {
    try {
      await work();
      this.#done.set(what, (this.#done.get(what) ?? 0) + 1);
    } catch (error) {
      if (!this.#failed.has(what)) this.#failed.set(what, describeError(error));
    }
  }

  async #pause(to: 'memory' | 'disk'): Promise<void> {
    await this.#control.pause(this.#id, to);
    await this.#control.resume(this.#id);
  }

  async #snapshot(): Promise<void> {
    const { id } = await this.#control.snapshot(this.#id);
    await this.#control.removeSnapshot(id);
  }

  async #look(): Promise<void> {
    const pid = await this.#vmm();
    this.#vmms.add(pid);
    for (const task of await readdir(`/proc/${pid}/task`)) {
      const text = await readFile(`/proc/${pid}/task/${task}/status`, 'latin1').catch((error: unknown) =>
        ignore(error, 'the thread has just ended'),
      );
      if (text === undefined) continue;
      this.#threads += 1;
      if (/^Seccomp:\t2$/m.test(text) && /^NoNewPrivs:\t1$/m.test(text)) continue;
      this.#unfiltered ||= `not thread ${/^Name:\t(.*)$/m.exec(text)?.[1] ?? task}`;
    }
  }
}

const isFirst = (name: string, index: number, all: readonly string[]): boolean => all.indexOf(name) === index;

/** @throws Error if the program fails or prints something else */
async function said(guest: Guest, argv: readonly string[], wanted: string): Promise<void> {
  const program = await guest.exec({ argv, stdin: false });
  program.stderr.resume();
  const [text, { exitCode }] = await Promise.all([textOf(program.stdout), program.exit]);
  if (exitCode === 0 && text.includes(wanted)) return;
  throw new Error(`${argv[0]} ended with ${exitCode} and printed ${JSON.stringify(text.slice(0, 40))}`);
}

/** Waits for the guest's server. @throws Error after a minute */
async function answers(guest: Guest, signal?: AbortSignal): Promise<void> {
  for (let waitedMs = 0; ; waitedMs += START_GAP_MS) {
    try {
      await fetchPort(guest);
      return;
    } catch (error) {
      if (waitedMs >= START_MS_MAX) throw error;
      ignore(error, 'the server does not listen yet');
      await sleep(START_GAP_MS, signal);
    }
  }
}

async function fetchPort(guest: Guest): Promise<string> {
  const stream = await guest.connect(GUEST_PORT);
  stream.end('GET / HTTP/1.0\r\n\r\n');
  return await textOf(stream);
}

async function textOf(stream: Readable): Promise<string> {
  let text = '';
  for await (const bytes of stream) {
    text = (text + (bytes as Buffer).toString('latin1')).slice(0, OUTPUT_BYTES_MAX);
  }
  return text;
}

/** A model server with one answer. */
async function serveModel(path: string): Promise<AsyncDisposable & { readonly address: string }> {
  const server = createServer((request, response) => {
    request.resume().once('end', () => {
      const message = { role: 'assistant', content: ANSWER };
      const body = request.url?.endsWith('/models')
        ? { object: 'list', data: [{ id: 'load', object: 'model' }] }
        : { id: 'x', object: 'chat.completion', choices: [{ index: 0, message }] };
      response.setHeader('content-type', 'application/json').end(JSON.stringify(body));
    });
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(path, resolve);
  });
  return {
    address: `unix:${path}`,
    [Symbol.asyncDispose]: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
}

function sumOf(text: string, pattern: RegExp): number {
  return [...text.matchAll(pattern)].reduce((sum, [, value]) => sum + Number(value), 0);
}
