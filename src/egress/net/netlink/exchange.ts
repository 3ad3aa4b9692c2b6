/**
 * One netlink request and its answer, without I/O: datagrams in, an outcome out. Skips messages with another sequence
 * number or port, which belong to an abandoned exchange.
 */
import { LinkError } from './errors.ts';
import {
  type Acknowledgement,
  CONTROL,
  encodeMessage,
  FLAG,
  type Message,
  parseAcknowledgement,
  parseMessages,
} from './message.ts';
import type { Request } from './request.ts';

/** Messages of one dump. A full table of internet routes has more, but is never requested here. */
export const DUMP_MESSAGES_MAX = 100_000;

export type ExchangeOutcome =
  /** The answer is complete; `interrupted` means that the table changed during the dump. */
  | { readonly kind: 'done'; readonly messages: readonly Message[]; readonly interrupted: boolean }
  | { readonly kind: 'refused'; readonly acknowledgement: Acknowledgement };

export class NetlinkExchange {
  readonly output: Uint8Array;
  readonly #sequence: number;
  readonly #portId: number;
  readonly #flags: number;
  readonly #messages: Message[] = [];
  #interrupted = false;
  #outcome: ExchangeOutcome | undefined;

  /** @param sequence u32, unused so far on this socket. @param portId of this socket */
  constructor(request: Request, sequence: number, portId: number) {
    this.#sequence = sequence;
    this.#portId = portId;
    this.#flags = request.flags;
    const flags = request.flags | FLAG.request;
    this.output = encodeMessage({ ...request, flags, sequence, portId });
  }

  /** Undefined until the answer is complete. */
  get outcome(): ExchangeOutcome | undefined {
    return this.#outcome;
  }

  /** @throws LinkError `malformed`; `unreadable` above `DUMP_MESSAGES_MAX` */
  receive(datagram: Uint8Array): void {
    for (const message of parseMessages(datagram)) {
      if (message.sequence !== this.#sequence || message.portId !== this.#portId) continue;
      if (this.#outcome !== undefined) return;
      this.#take(message);
    }
  }

  #take(message: Message): void {
    if ((message.flags & FLAG.dumpInterrupted) !== 0) this.#interrupted = true;
    if (message.type === CONTROL.noop) return;
    if (message.type === CONTROL.overrun)
      throw new LinkError('unreadable', 'read an answer of the kernel: a part was lost');
    if (message.type === CONTROL.error || message.type === CONTROL.done) {
      const acknowledgement = parseAcknowledgement(message);
      if (acknowledgement.errno !== 0) this.#outcome = { kind: 'refused', acknowledgement };
      else this.#finish();
      return;
    }
    this.#messages.push(message);
    if (this.#messages.length > DUMP_MESSAGES_MAX)
      throw new LinkError('unreadable', `read more than ${DUMP_MESSAGES_MAX} entries`);
    if ((this.#flags & (FLAG.dump | FLAG.ack)) === 0) this.#finish();
  }

  #finish(): void {
    const interrupted = this.#interrupted;
    this.#outcome = { kind: 'done', messages: this.#messages, interrupted };
  }
}
