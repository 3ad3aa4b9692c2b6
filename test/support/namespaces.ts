/**
 * Network namespaces that live as long as a process that reads from us: nothing is left behind, even if the tests are
 * killed. The machine's own namespace stays untouched.
 */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { readlink } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { assert } from '../../src/base/assert.ts';
import { sleep } from '../../src/base/clock.ts';
import { ignore } from '../../src/base/ignore.ts';

const run = promisify(execFile);
const PEER = join(import.meta.dirname, '../fixtures/net-peer.mjs');
/** Time without an answer that counts as silence: on one machine an answer takes milliseconds. */
export const SILENCE_MS = 700;

export interface Arrival {
  readonly protocol: 'tcp' | 'udp';
  readonly from: string;
  readonly to?: string;
  readonly port: number;
  readonly text?: string;
}

export interface Outcome {
  /** `answer`, `silence`, or the errno of a refusal. */
  readonly outcome: string;
  /** The source address that the server saw. */
  readonly seenAs?: string;
}

export class Namespace implements AsyncDisposable {
  readonly pid: number;
  readonly #holder: ChildProcess;
  readonly #peers: Peer[] = [];

  private constructor(holder: ChildProcess, pid: number) {
    this.#holder = holder;
    this.pid = pid;
  }

  static async create(): Promise<Namespace> {
    const holder = spawn('unshare', ['--net', 'cat'], { stdio: ['pipe', 'ignore', 'inherit'] });
    holder.stdin?.on('error', (error) => ignore(error, 'the holder of a namespace has ended'));
    const { pid } = holder;
    assert(pid !== undefined, 'unshare has started');
    const own = await readlink('/proc/self/ns/net');
    while ((await readlink(`/proc/${pid}/ns/net`)) === own) {
      assert(holder.exitCode === null, 'unshare --net is permitted');
      await sleep(5);
    }
    const namespace = new Namespace(holder, pid);
    await namespace.run('ip', 'link', 'set', 'lo', 'up');
    return namespace;
  }

  /** The command prefix that runs another one in here. */
  get enter(): string[] {
    return ['nsenter', '--target', String(this.pid), '--net'];
  }

  async run(...command: string[]): Promise<string> {
    const [program = '', ...args] = [...this.enter, ...command];
    const { stdout } = await run(program, args, { maxBuffer: 256 * 1024 * 1024 });
    return stdout;
  }

  async setSysctl(path: string, value: string): Promise<void> {
    await this.run('sh', '-c', 'echo "$1" > "/proc/sys/net/$2"', 'sh', value, path);
  }

  /** A pair of veth: `here` in this namespace, `name` in the other. */
  async joinTo(other: Namespace, here: string, name: string): Promise<void> {
    const peer = ['peer', 'name', name, 'netns', String(other.pid)];
    await this.run('ip', 'link', 'add', here, 'type', 'veth', ...peer);
    await this.run('ip', 'link', 'set', here, 'up');
    await other.run('ip', 'link', 'set', name, 'up');
  }

  async peer(): Promise<Peer> {
    const peer = await Peer.start(this.enter);
    this.#peers.push(peer);
    return peer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const peer of this.#peers) await peer.stop();
    const ended = new Promise((resolve) => this.#holder.once('close', resolve));
    this.#holder.stdin?.end();
    await ended;
  }
}

/** A program in a namespace that serves and connects on request: test/fixtures/net-peer.mjs. */
export class Peer {
  readonly arrivals: Arrival[] = [];
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (message: { result?: unknown; error?: string }) => void>();
  #next = 0;

  private constructor(child: ChildProcess) {
    this.#child = child;
  }

  static start(enter: readonly string[]): Promise<Peer> {
    const [program = '', ...args] = [...enter, process.execPath, PEER];
    const child = spawn(program, args, { stdio: ['pipe', 'pipe', 'inherit'] });
    const peer = new Peer(child);
    return new Promise((resolve, reject) => {
      child.once('error', reject);
      createInterface({ input: child.stdout }).on('line', (line) => {
        const message = JSON.parse(line);
        if (message.ready) resolve(peer);
        else if (message.arrival) peer.arrivals.push(message.arrival);
        else peer.#waiting.get(message.id)?.(message);
      });
    });
  }

  serve(protocol: 'tcp' | 'udp', host: string, port: number): Promise<unknown> {
    return this.tell(protocol === 'tcp' ? 'serveTcp' : 'serveUdp', { host, port });
  }

  tcp(host: string, port: number, from?: string): Promise<Outcome> {
    return this.tell('tcp', { host, port, from, waitMs: SILENCE_MS });
  }

  udp(host: string, port: number, more: { from?: string; fromPort?: number; text?: string } = {}): Promise<Outcome> {
    return this.tell('udp', { host, port, ...more, waitMs: SILENCE_MS });
  }

  tell<T>(op: string, args: object): Promise<T> {
    const id = this.#next;
    this.#next += 1;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, ({ result, error }) => {
        this.#waiting.delete(id);
        // Other peers' lines may have come in the same turn: they are read first.
        if (error === undefined) setImmediate(() => resolve(result as T));
        else reject(new Error(error));
      });
      this.#child.stdin?.write(`${JSON.stringify({ id, op, ...args })}\n`);
    });
  }

  async stop(): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('close', resolve));
    this.#child.stdin?.end();
    await ended;
  }
}
