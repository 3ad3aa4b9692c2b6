/** A process of ours in a network namespace that ends with it, and `ip` as the independent reader of its state. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readlinkSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const FIXTURE = join(import.meta.dirname, '../fixtures/net-links.ts');

/** A new namespace inherits this setting from the machine's initial one, which may forward. */
const STILL = 'echo 0 > /proc/sys/net/ipv4/ip_forward && exec "$@"';
const NEW_NAMESPACE = ['unshare', '-n', 'sh', '-c', STILL, 'sh'];
const ENTER_TRIES_MAX = 10_000;

export interface Refusal {
  readonly code: string;
  readonly message: string;
  readonly remedy?: string;
  readonly cause: string;
}

/** Drives test/fixtures/net-links.ts, or another fixture of its kind. Its PATH is empty, so it finds no command. */
export class NamespacedProcess {
  readonly #fixture: string;
  readonly #child: ChildProcess;
  readonly #answers: AsyncIterator<string>;
  readonly #exit: Promise<unknown>;

  /**
   * @param prefix commands with arguments that run it, for example `unshare -n`, found by our own PATH
   * @param fixture absolute
   */
  constructor(prefix: readonly string[], fixture = FIXTURE) {
    this.#fixture = fixture;
    const [command = '', ...rest] = [...prefix, '/usr/bin/env', 'PATH=', process.execPath, fixture];
    this.#child = spawn(command, rest, { stdio: ['pipe', 'pipe', 'inherit'] });
    this.#exit = once(this.#child, 'exit');
    const { stdout } = this.#child;
    if (stdout === null) throw new Error('the fixture has no stdout');
    this.#answers = createInterface({ input: stdout })[Symbol.asyncIterator]();
  }

  static inNewNamespace(fixture = FIXTURE): NamespacedProcess {
    return new NamespacedProcess(NEW_NAMESPACE, fixture);
  }

  /** Another process in the namespace of this one. */
  beside(): NamespacedProcess {
    return new NamespacedProcess(this.#enter(), this.#fixture);
  }

  /** @throws Error if the fixture refuses */
  async do<T = unknown>(action: string, ...values: unknown[]): Promise<T> {
    const answer = await this.#ask(action, values);
    if (!('ok' in answer)) throw new Error(JSON.stringify(answer.error));
    return answer.ok as T;
  }

  /** @throws Error if the fixture does not refuse */
  async refusal(action: string, ...values: unknown[]): Promise<Refusal> {
    const answer = await this.#ask(action, values);
    if (!('error' in answer)) throw new Error(`${action} was not refused`);
    return answer.error;
  }

  /** Output of `ip -j -d` in this namespace. */
  ip<T>(...args: string[]): T[] {
    return JSON.parse(this.run('ip', '-j', '-d', ...args) || '[]') as T[];
  }

  run(...args: string[]): string {
    const [command = '', ...rest] = [...this.#enter(), ...args];
    return execFileSync(command, rest, { encoding: 'utf8' });
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async kill(): Promise<void> {
    this.#child.kill('SIGKILL');
    await this.#exit;
  }

  #enter(): string[] {
    this.#awaitNamespace();
    return ['nsenter', '-t', `${this.#child.pid}`, '-n'];
  }

  /** Waits until `unshare` has got there; before, entering "its" namespace would mean the machine's own. */
  #awaitNamespace(): void {
    const own = readlinkSync('/proc/self/ns/net');
    const pause = new Int32Array(new SharedArrayBuffer(4));
    for (let tries = 0; tries < ENTER_TRIES_MAX; tries += 1) {
      if (readlinkSync(`/proc/${this.pid}/ns/net`) !== own) return;
      Atomics.wait(pause, 0, 0, 1);
    }
    throw new Error(`process ${this.pid} stays in our network namespace`);
  }

  async #ask(action: string, values: readonly unknown[]): Promise<{ ok: unknown } | { error: Refusal }> {
    this.#child.stdin?.write(`${JSON.stringify([action, ...values])}\n`);
    const { value, done } = await this.#answers.next();
    if (done === true) throw new Error(`the fixture ended at ${action}`);
    return JSON.parse(value) as { ok: unknown } | { error: Refusal };
  }
}
