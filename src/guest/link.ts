import type { Clock } from '../base/clock.ts';
import type { Log } from '../base/log.ts';
import type { Guest } from './guest.ts';

export type * from './guest.ts';

/** What makes this guest this sandbox: given in the hello, never part of an image or a snapshot. */
export interface GuestIdentity {
  readonly sandboxId: string;
  readonly hostname: string;
  /** Environment of every process of the user. */
  readonly env: Readonly<Record<string, string>>;
  readonly limits: GuestLimits;
  /** Python modules that the fork server imports, in order. */
  readonly warm?: readonly string[];
}

/** All optional: the agent has a default for each (`spec/guest-protocol.md`). */
export interface GuestLimits {
  /** All user code together is slowed down above this; default 70 % of the guest's memory. */
  readonly memoryHighBytes?: number;
  /** User code is killed above this; default 80 %. */
  readonly memoryMaxBytes?: number;
  /** Processes and threads of the user together. */
  readonly pidsMax?: number;
  /** Default of `RunOptions.outputBytesMax`. */
  readonly outputBytesMax?: number;
}

export interface ListenOptions {
  /** The channel's unix socket; the listener is at `<channelPath>_1024`. */
  readonly channelPath: string;
  readonly identity: GuestIdentity;
  /** From this call to the guest's confirmation, milliseconds. */
  readonly helloTimeoutMs: number;
  readonly clock: Clock;
  /** 64 bytes from the host's random number generator, fresh at each call. */
  readonly entropy: () => Uint8Array;
  readonly log: Log;
}

export interface GuestListener {
  /**
   * Resolves when the guest has confirmed. After that guest's connection was lost, a further call waits
   * for the next hello.
   * @throws GuestError `hello_timeout`, `hello_refused`, `protocol_error`, `cancelled`
   */
  ready(signal?: AbortSignal): Promise<Guest>;
  /** Stops listening, closes the guest and removes the socket. Idempotent. */
  close(): Promise<void>;
}

/** Must be called before the VM starts: the guest's first dial finds a listener or is refused. */
export type ListenForGuest = (options: ListenOptions) => Promise<GuestListener>;
