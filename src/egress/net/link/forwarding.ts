/**
 * Turns `net.ipv4.ip_forward` on while a process needs it. Several processes may need it, and each may be killed at any
 * moment. So a file lists the holders and the original values, which the last holder or the next process to start
 * restores.
 *
 * A write of ip_forward sets `forwarding` of every link and of `default`, and `accept_redirects` of `all`
 * (ip-sysctl.rst; net/ipv4/devinet.c, inet_forward_change), so the file includes those. A value that was already 1
 * stays. Whether another program has come to rely on our value can't be known.
 */
import { randomUUID } from 'node:crypto';
import { closeSync, readdirSync, readFileSync, readlinkSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { assert } from '../../../base/assert.ts';
import { errorCode } from '../../../base/errors.ts';
import { ignore, tryOr } from '../../../base/ignore.ts';
import { lockFile } from '../../../sys/file-lock.ts';
import { isRunning, startTicksOf } from '../../../sys/process-start.ts';
import { LinkError, linkError } from '../netlink/errors.ts';

/** Limit for waiting on another process, which holds the lock for less than a millisecond. */
const LOCK_WAIT_MS_MAX = 5000;
const VERSION = 2;
const REDIRECTS = 'conf/all/accept_redirects';

interface Holder {
  readonly pid: number;
  readonly startTicks: string;
  /** Distinguishes several objects of one process. */
  readonly key: string;
}

/** Content of the file, which exists only while the value is changed. */
interface State {
  readonly version: typeof VERSION;
  /** Values of an earlier boot are ignored. */
  readonly bootId: string;
  /** Links, and `default`, that forwarded while ip_forward was 0. */
  readonly forwardingLinks: readonly string[];
  /** Value for `all` while ip_forward was 0. */
  readonly acceptsRedirects: boolean;
  readonly holders: readonly Holder[];
}

interface ForwardingOptions {
  /** Directory of the file, shared by all processes of a host; created if missing. */
  readonly dir: string;
  /** Default: this process. */
  readonly holder?: { readonly pid: number; readonly startTicks: string };
  /** For tests. */
  readonly sysctlDir?: string;
}

/** Methods throw `LinkError` `not_permitted`, `busy`, `failed`. Calls of one object queue. */
export class Forwarding {
  readonly #path: string;
  readonly #sysctlDir: string;
  readonly #holder: Holder;
  #leases = 0;
  #tail: Promise<void> = Promise.resolve();

  constructor({ dir, holder, sysctlDir = '/proc/sys/net/ipv4' }: ForwardingOptions) {
    const self = { pid: process.pid, startTicks: startTicksOf(process.pid) ?? '' };
    this.#holder = { ...(holder ?? self), key: randomUUID() };
    this.#sysctlDir = sysctlDir;
    // One file per network namespace, since each has its own value.
    const namespace = /\d+/.exec(readlinkSync('/proc/self/ns/net'))?.[0] ?? '';
    this.#path = join(dir, `ip-forward-${namespace}.json`);
  }

  /** Turns forwarding on. Each call needs a `release`. */
  acquire(): Promise<void> {
    return this.#queue(async () => {
      if (this.#leases === 0) await this.#update((alive) => [...alive, this.#holder]);
      this.#leases += 1;
    });
  }

  /** Restores the original values when no process needs forwarding any more. */
  release(): Promise<void> {
    return this.#queue(async () => {
      assert(this.#leases > 0, 'forwarding is released once for each time it was acquired');
      if (this.#leases === 1) await this.#update((alive) => alive);
      this.#leases -= 1;
    });
  }

  /** Call at a start: restores the values that killed processes left changed. */
  recover(): Promise<void> {
    return this.#queue(async () => {
      if (this.#leases === 0) await this.#update((alive) => alive);
    });
  }

  #queue(work: () => Promise<void>): Promise<void> {
    const turn = this.#tail.then(work);
    this.#tail = turn.catch((error: unknown) => ignore(error, 'the caller has it'));
    return turn;
  }

  /** @param next returns the new holders, given the other running ones */
  async #update(next: (alive: readonly Holder[]) => readonly Holder[]): Promise<void> {
    const lock = await this.#lock();
    try {
      const state = this.#read();
      const others = (state?.holders ?? []).filter((each) => each.key !== this.#holder.key && isRunning(each));
      const holders = next(others);
      if (holders.length > 0) this.#turnOn(state, holders);
      else if (state !== undefined) this.#restore(state);
    } catch (error) {
      if (error instanceof LinkError) throw error;
      throw linkError('change net.ipv4.ip_forward', errorCode(error) ?? '', error);
    } finally {
      closeSync(lock);
    }
  }

  /** Writes the file first: a kill in between leaves at most a file that restores the current values. */
  #turnOn(state: State | undefined, holders: readonly Holder[]): void {
    const isOn = this.#get('ip_forward') === '1';
    if (state === undefined && isOn) return;
    this.#write({
      version: VERSION,
      bootId: bootId(),
      forwardingLinks: state?.forwardingLinks ?? this.#forwardingLinks(),
      acceptsRedirects: state?.acceptsRedirects ?? this.#get(REDIRECTS) === '1',
      holders,
    });
    if (isOn) return;
    try {
      this.#set('ip_forward', '1');
    } catch (error) {
      if (state === undefined) rmSync(this.#path, { force: true });
      throw error;
    }
  }

  #restore(state: State): void {
    if (this.#get('ip_forward') !== '0') this.#set('ip_forward', '0');
    for (const name of state.forwardingLinks) {
      try {
        this.#set(`conf/${name}/forwarding`, '1');
      } catch (error) {
        if (errorCode(error) !== 'ENOENT') throw error;
        ignore(error, 'the link is gone');
      }
    }
    this.#set(REDIRECTS, state.acceptsRedirects ? '1' : '0');
    rmSync(this.#path, { force: true });
  }

  #forwardingLinks(): string[] {
    const names = readdirSync(join(this.#sysctlDir, 'conf')).filter((name) => name !== 'all');
    return names.filter((name) => this.#get(`conf/${name}/forwarding`) === '1');
  }

  #get(name: string): string {
    return readFileSync(join(this.#sysctlDir, name), 'latin1').trim();
  }

  #set(name: string, value: string): void {
    writeFileSync(join(this.#sysctlDir, name), value, { flag: 'r+' });
  }

  /** @returns undefined if the value is not ours: no file, an earlier boot, or a file of another version */
  #read(): State | undefined {
    let text: string;
    try {
      text = readFileSync(this.#path, 'utf8');
    } catch (error) {
      if (errorCode(error) === 'ENOENT') return undefined;
      throw error;
    }
    const state = parseState(text);
    return state?.bootId === bootId() ? state : undefined;
  }

  /** Atomic. */
  #write(state: State): void {
    const next = `${this.#path}.next`;
    writeFileSync(next, JSON.stringify(state), { mode: 0o600 });
    renameSync(next, this.#path);
  }

  /** @returns a descriptor; closing it, also by the death of the process, releases the lock */
  async #lock(): Promise<number> {
    let fd: number | undefined;
    try {
      fd = await lockFile(`${this.#path}.lock`, LOCK_WAIT_MS_MAX);
    } catch (error) {
      throw linkError(`lock ${this.#path}`, errorCode(error) ?? '', error);
    }
    if (fd !== undefined) return fd;
    throw new LinkError('busy', `lock ${this.#path}`, {
      remedy: 'End the other NeuroVisor process, which hangs, then try again.',
    });
  }
}

function parseState(text: string): State | undefined {
  const value = tryOr(null, 'a damaged ip_forward file', () => JSON.parse(text) as Partial<State> | null) ?? {};
  const { version, bootId: boot, forwardingLinks, acceptsRedirects, holders } = value;
  const isWhole =
    version === VERSION &&
    typeof boot === 'string' &&
    Array.isArray(forwardingLinks) &&
    // Names become part of a path.
    forwardingLinks.every((name) => isLinkPath(name)) &&
    typeof acceptsRedirects === 'boolean' &&
    Array.isArray(holders) &&
    holders.every(isHolder);
  return isWhole ? { version, bootId: boot, forwardingLinks, acceptsRedirects, holders } : undefined;
}

function isLinkPath(name: unknown): boolean {
  return typeof name === 'string' && /^[^/]{1,15}$/.test(name) && name !== '..' && name !== '.';
}

function isHolder(value: Partial<Holder> | null): boolean {
  const { pid, startTicks, key } = value ?? {};
  return typeof pid === 'number' && typeof startTicks === 'string' && typeof key === 'string';
}

function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'latin1').trim();
}
