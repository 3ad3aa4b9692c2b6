/** The real vsock devices in a process of their own, so that a front end can attack that process. */
import { type ChildProcess, fork } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ChannelStats } from '../../src/base/channel.ts';
import type { DeviceClosed } from '../../src/machine/vsock/host.ts';

export type DeviceCommand =
  | {
      readonly kind: 'attach';
      readonly cid: number;
      readonly vhostSocketPath: string;
      readonly channelPath: string;
      /** As text: IPC carries no bigint. */
      readonly memory: { readonly dev: string; readonly ino: string } | undefined;
    }
  | { readonly kind: 'stats'; readonly cid: number };

export type DeviceReport =
  | { readonly kind: 'attached'; readonly cid: number }
  | { readonly kind: 'stats'; readonly cid: number; readonly stats: ChannelStats | undefined }
  | { readonly kind: 'closed'; readonly cid: number; readonly end: DeviceEnd };

export interface DeviceEnd extends DeviceClosed {
  readonly stats: ChannelStats;
}

/** For a device that hangs, not one that is slow. */
const ANSWER_MS_MAX = 30_000;

export class VsockProcess implements Disposable {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<string, (report: DeviceReport) => void>();
  #end: string | undefined;

  constructor() {
    this.#child = fork(join(import.meta.dirname, '../fixtures/vsock-devices.ts'), {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
      execArgv: [],
    });
    this.#child.on('message', (report: DeviceReport) => {
      const key = `${report.kind} ${report.cid}`;
      this.#waiting.get(key)?.(report);
      this.#waiting.delete(key);
    });
    this.#child.on('exit', (status, signal) => {
      this.#end = `the process of the devices ended with ${signal ?? status}`;
    });
  }

  /** `null` while it lives. */
  get end(): string | null {
    return this.#end ?? null;
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /**
   * Resolves when both sockets listen.
   * @returns a promise that resolves with the end of the device
   */
  async attach(
    command: Omit<DeviceCommand & { kind: 'attach' }, 'kind'>,
  ): Promise<{ closed: () => Promise<DeviceEnd> }> {
    const { cid } = command;
    const closed = Promise.withResolvers<DeviceReport>();
    this.#waiting.set(`closed ${cid}`, closed.resolve);
    await this.#ask({ kind: 'attach', ...command }, `attached ${cid}`);
    return {
      closed: async () => {
        const report = await this.#inTime(closed.promise, `the end of device ${cid}`);
        if (report.kind !== 'closed') throw new Error(`unexpected report ${report.kind}`);
        return report.end;
      },
    };
  }

  async stats(cid: number): Promise<ChannelStats | undefined> {
    const report = await this.#ask({ kind: 'stats', cid }, `stats ${cid}`);
    return report.kind === 'stats' ? report.stats : undefined;
  }

  /** Open descriptors. */
  descriptors(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  /** Guest memory that it has mapped. */
  mappings(): number {
    const maps = readFileSync(`/proc/${this.pid}/maps`, 'utf8');
    return maps.split('\n').filter((line) => line.includes('/memfd:guest')).length;
  }

  /** Memory of its own and of its mappings, bytes. */
  residentBytes(): number {
    const status = readFileSync(`/proc/${this.pid}/status`, 'utf8');
    return Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1]) * 1024;
  }

  [Symbol.dispose](): void {
    this.#child.kill('SIGKILL');
  }

  async #ask(command: DeviceCommand, key: string): Promise<DeviceReport> {
    const answer = Promise.withResolvers<DeviceReport>();
    this.#waiting.set(key, answer.resolve);
    this.#child.send(command);
    return this.#inTime(answer.promise, key);
  }

  async #inTime<T>(wanted: Promise<T>, what: string): Promise<T> {
    const late = Promise.withResolvers<never>();
    const timer = setTimeout(() => late.reject(new Error(this.#end ?? `waited for ${what}`)), ANSWER_MS_MAX);
    const onExit = (): void => late.reject(new Error(this.#end ?? 'the process ended'));
    this.#child.once('exit', onExit);
    try {
      if (this.#end !== undefined) throw new Error(this.#end);
      return await Promise.race([wanted, late.promise]);
    } finally {
      clearTimeout(timer);
      this.#child.off('exit', onExit);
    }
  }
}
