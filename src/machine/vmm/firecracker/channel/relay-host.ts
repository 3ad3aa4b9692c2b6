/**
 * The channels of all VMs of a driver, which one thread serves: all bytes pass there, so that a guest that floods its
 * channel does not hold up the main thread.
 *
 *     main thread                          thread, from the first channel on
 *     ChannelRelay per VM ── commands ──►  RelayLoop ── turns ──► GuestChannel per VM
 *     listens, and hands over        ◄── answers ──     epoll ── unix sockets
 */
import type { ChannelLimits, ChannelStats } from '../../../../base/channel.ts';
import type { Clock } from '../../../../base/clock.ts';
import { addIgnored } from '../../../../base/ignore.ts';
import type { Log } from '../../../../base/log.ts';
import { closeInPool } from '../../../../sys/fd.ts';
import { VmmError } from '../../errors.ts';
import type { Command, Report } from './messages.ts';
import { ChannelRelay, type RelayPort } from './relay.ts';
import { type RelayThread, type StartRelayThread, startRelayThread } from './relay-thread.ts';

export class RelayHost {
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #start: StartRelayThread;
  #current: Service | undefined;

  constructor(log: Log, clock: Clock, start: StartRelayThread = startRelayThread) {
    this.#log = log;
    this.#clock = clock;
    this.#start = start;
  }

  /**
   * Starts the thread if there is none.
   * @throws VmmError `vm_spec_invalid`
   */
  open(channelPath: string, limits: ChannelLimits): ChannelRelay {
    return new ChannelRelay(channelPath, limits, (innerPath, broken) => {
      this.#current ??= new Service(this.#log, this.#clock, this.#start, (service) => {
        // A service that ended later may have a successor.
        if (this.#current === service) this.#current = undefined;
      });
      return this.#current.add(innerPath, limits, broken);
    });
  }

  /** Ends the thread. A channel that is still open breaks. */
  async close(): Promise<void> {
    await this.#current?.stop();
  }
}

/** Starting a thread takes a tenth of a second of CPU time, more than starting a VM. */
const IDLE_MS_MAX = 60_000;

interface Pending {
  readonly channel: number;
  readonly resolve: (stats: ChannelStats) => void;
  readonly reject: (error: VmmError) => void;
}

class Service {
  readonly #log: Log;
  readonly #clock: Clock;
  readonly #thread: RelayThread;
  readonly #retire: (self: Service) => void;
  readonly #channels = new Map<number, (error: VmmError) => void>();
  readonly #pending = new Map<number, Pending>();
  readonly #ended = Promise.withResolvers<void>();
  #discarded: Promise<void> = Promise.resolve();
  #cancelStop: (() => void) | undefined;
  #last = 0;

  /** @param retire called when the next channel needs another thread */
  constructor(log: Log, clock: Clock, start: StartRelayThread, retire: (self: Service) => void) {
    this.#log = log;
    this.#clock = clock;
    this.#retire = retire;
    this.#thread = start(
      (report) => this.#receive(report),
      (fault) => this.#end(fault),
    );
  }

  add(innerPath: string, limits: ChannelLimits, broken: (error: VmmError) => void): RelayPort {
    this.#last += 1;
    const channel = this.#last;
    this.#channels.set(channel, broken);
    this.#cancelStop?.();
    this.#thread.keepAlive(true);
    this.#thread.post({ kind: 'open', channel, innerPath, limits });
    return {
      listen: (fd, hostPath) => {
        if (this.#channels.has(channel)) this.#thread.ledger.add(fd);
        this.#thread.post({ kind: 'listen', channel, fd, hostPath });
      },
      setLimits: (changed) =>
        this.#ask(channel, (request) => ({ kind: 'set-limits', channel, limits: changed, request })),
      stats: () => this.#ask(channel, (request) => ({ kind: 'stats', channel, request })),
      disconnect: async () => {
        const stats = await this.#ask(channel, (request) => ({ kind: 'disconnect', channel, request }));
        await this.#discarded;
        return stats;
      },
      close: async () => {
        const stats = await this.#ask(channel, (request) => ({ kind: 'close', channel, request }));
        await this.#discarded;
        this.#remove(channel);
        return stats;
      },
    };
  }

  #ask(channel: number, command: (request: number) => Command): Promise<ChannelStats> {
    this.#last += 1;
    const request = this.#last;
    const { promise, resolve, reject } = Promise.withResolvers<ChannelStats>();
    this.#pending.set(request, { channel, resolve, reject });
    this.#thread.post(command(request));
    return promise;
  }

  /** Idempotent. */
  async stop(): Promise<void> {
    this.#cancelStop?.();
    this.#retire(this);
    // Otherwise a process that waits for nothing else would end here.
    this.#thread.keepAlive(true);
    this.#thread.post({ kind: 'stop' });
    await this.#ended.promise;
  }

  #remove(channel: number): void {
    if (!this.#channels.delete(channel) || this.#channels.size > 0) return;
    this.#thread.keepAlive(false);
    this.#cancelStop = this.#clock.after(IDLE_MS_MAX, () => void this.stop());
  }

  #receive(report: Report): void {
    if (report.kind === 'answer') {
      this.#pending.get(report.request)?.resolve(report.stats);
      this.#pending.delete(report.request);
    } else if (report.kind === 'ignored') addIgnored(report.counts);
    else if (report.kind === 'discard') for (const fd of report.fds) this.#discard(fd);
    else {
      this.#break(report.channel, report.detail);
      this.#remove(report.channel);
    }
  }

  /** One after the other, so that descriptors that are slow to close block at most one thread of Node's pool. */
  #discard(fd: number): void {
    this.#thread.ledger.forget(fd);
    this.#discarded = this.#discarded.then(() => closeInPool(fd));
  }

  #end(fault: string | null): void {
    this.#cancelStop?.();
    if (fault !== null) {
      this.#log.error('the thread of the channels failed', { error: fault });
      this.#retire(this);
    }
    for (const channel of [...this.#channels.keys()]) {
      // Without the stack.
      this.#break(channel, fault?.split('\n', 1).join('') ?? 'its thread was stopped');
      this.#channels.delete(channel);
    }
    this.#ended.resolve();
  }

  #break(channel: number, cause: string): void {
    const error = new VmmError('vm_gone', "the VM's channel has failed", { cause });
    for (const [request, pending] of this.#pending) {
      if (pending.channel !== channel) continue;
      this.#pending.delete(request);
      pending.reject(error);
    }
    this.#channels.get(channel)?.(error);
  }
}
