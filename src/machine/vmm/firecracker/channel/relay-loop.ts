/** The channels of all VMs on one epoll. Channels with something to do take turns, each of which is bounded. */
import { assert } from '../../../../base/assert.ts';
import type { Clock } from '../../../../base/clock.ts';
import { EPOLL, Epoll, type EpollHandler } from '../../../../sys/epoll.ts';
import type { FdLedger } from './fd-ledger.ts';
import { GuestChannel } from './guest-channel.ts';
import { type Command, NO_STATS, type Report } from './messages.ts';

interface RelayLoopOptions {
  readonly clock: Clock;
  readonly ledger: FdLedger;
  readonly report: (report: Report) => void;
}

export class RelayLoop {
  readonly #options: RelayLoopOptions;
  readonly #epoll = new Epoll();
  readonly #channels = new Map<number, GuestChannel>();
  /** In the order of their turns. */
  readonly #ready = new Set<GuestChannel>();

  constructor(options: RelayLoopOptions) {
    this.#options = options;
    options.ledger.add(this.#epoll.fd);
  }

  /** Whether a channel has something to do. */
  get isReady(): boolean {
    return this.#ready.size > 0;
  }

  /** @param fd still owned by the caller */
  watch(fd: number, handler: EpollHandler): void {
    this.#epoll.add(fd, EPOLL.in, handler);
  }

  obey(command: Exclude<Command, { kind: 'stop' }>): void {
    const channel = this.#channels.get(command.channel);
    if (command.kind === 'open') {
      assert(channel === undefined, 'the channel is new');
      this.#open(command);
      return;
    }
    if (command.kind === 'listen') {
      // A channel that broke has reported it.
      if (channel === undefined) this.#options.ledger.close(command.fd);
      else channel.listen(command.fd, command.hostPath);
      return;
    }
    if (command.kind === 'set-limits') channel?.setLimits(command.limits);
    else if (command.kind === 'disconnect') channel?.disconnect();
    else if (command.kind === 'close' && channel !== undefined) {
      channel.close();
      this.#forget(command.channel);
    }
    const stats = channel?.stats() ?? NO_STATS;
    this.#options.report({ kind: 'answer', request: command.request, stats });
  }

  /** Waits for events, then gives each channel with something to do one turn. @param timeoutMs −1: no timeout */
  turn(timeoutMs: number): void {
    this.#epoll.wait(this.isReady ? 0 : timeoutMs);
    for (const channel of [...this.#ready]) {
      this.#ready.delete(channel);
      if (channel.turn()) this.#ready.add(channel);
    }
  }

  close(): void {
    for (const channel of this.#channels.values()) channel.close();
    this.#channels.clear();
    this.#ready.clear();
    this.#options.ledger.forget(this.#epoll.fd);
    this.#epoll.close();
  }

  #open({ channel: key, innerPath, limits }: Command & { kind: 'open' }): void {
    const { clock, ledger, report } = this.#options;
    const channel = new GuestChannel({
      innerPath,
      limits,
      clock,
      epoll: this.#epoll,
      ledger,
      discard: (fds) => report({ kind: 'discard', fds }),
      wake: (self) => this.#ready.add(self),
      broken: (detail) => {
        this.#forget(key);
        report({ kind: 'broken', channel: key, detail });
      },
    });
    this.#channels.set(key, channel);
  }

  #forget(key: number): void {
    const channel = this.#channels.get(key);
    this.#channels.delete(key);
    if (channel !== undefined) this.#ready.delete(channel);
  }
}
