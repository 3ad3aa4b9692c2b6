/**
 * The host end of the control connection, without I/O: bytes in, events and lines out.
 *
 *     waiting-hello ──hello──► waiting-confirm ──ready──► linked ──events…
 *          │ other version, bad message │ refused              │ bad message
 *          └───────────────► over ◄─────┴──────────────────────┘
 */
import { LineDecoder } from './framing.ts';
import type { GuestEvent } from './guest.ts';
import type { GuestIdentity } from './identity.ts';
import { GUEST_LIMITS, PROTOCOL_VERSION } from './limits.ts';
import { type Hello, parseAnyHello, parseConfirm, parseEvent, parseHello } from './protocol.ts';

export type HelloState =
  | 'waiting-hello'
  | 'waiting-confirm'
  /** The guest has confirmed its identity; events may come. */
  | 'linked'
  /** Further bytes are ignored. */
  | 'over';

export type LinkEvent =
  | { readonly type: 'hello'; readonly hello: Hello }
  | { readonly type: 'ready'; readonly problems: readonly string[] }
  | { readonly type: 'event'; readonly event: GuestEvent }
  | { readonly type: 'refused'; readonly by: 'host' | 'guest'; readonly message: string }
  | { readonly type: 'broken'; readonly reason: string };

/** Values of a welcome that are fresh each time. */
export interface Freshness {
  /** Nanoseconds since 1970. */
  readonly wallNs: bigint;
  readonly entropy: Uint8Array;
}

export class HelloSession {
  #state: HelloState = 'waiting-hello';
  readonly #lines = new LineDecoder(GUEST_LIMITS.controlLineBytesMax);
  readonly #identity: GuestIdentity;
  readonly #freshness: () => Freshness;
  #output = '';

  /** @param freshness called once, when the welcome is made */
  constructor(identity: GuestIdentity, freshness: () => Freshness) {
    this.#identity = identity;
    this.#freshness = freshness;
  }

  get state(): HelloState {
    return this.#state;
  }

  takeOutput(): string {
    const output = this.#output;
    this.#output = '';
    return output;
  }

  receive(data: Buffer): LinkEvent[] {
    const events: LinkEvent[] = [];
    let rest = data;
    while (this.#state !== 'over') {
      const result = this.#lines.receive(rest);
      if (!result.ok) {
        events.push(this.#break(result.reason));
      } else if (result.line === null) {
        break;
      } else {
        events.push(this.#line(result.line));
        rest = result.rest;
      }
    }
    return events;
  }

  #line(line: Buffer): LinkEvent {
    switch (this.#state) {
      case 'waiting-hello':
        return this.#hello(line);
      case 'waiting-confirm':
        return this.#confirm(line);
      default: {
        const parsed = parseEvent(line);
        if (!parsed.ok) return this.#break(`event: ${parsed.reason}`);
        return { type: 'event', event: parsed.value };
      }
    }
  }

  #hello(line: Buffer): LinkEvent {
    const version = parseAnyHello(line);
    if (version.ok && version.value.protocol !== PROTOCOL_VERSION) {
      const message = `the host speaks protocol ${PROTOCOL_VERSION}, the agent ${version.value.protocol}`;
      this.#send({ type: 'refused', code: 'protocol_version', message });
      this.#state = 'over';
      return { type: 'refused', by: 'host', message };
    }
    const parsed = parseHello(line);
    if (!parsed.ok) return this.#break(`hello: ${parsed.reason}`);
    const { wallNs, entropy } = this.#freshness();
    const { sandboxId, hostname, env, limits, warm = [] } = this.#identity;
    const { rehearse, network, authority, environment, volumes } = this.#identity;
    this.#send({
      type: 'welcome',
      protocol: PROTOCOL_VERSION,
      sandboxId,
      hostname,
      wallNs: wallNs.toString(),
      entropy: Buffer.from(entropy).toString('base64'),
      env,
      limits,
      warm,
      ...(rehearse === true ? { rehearse } : {}),
      ...(network === undefined ? {} : { network }),
      ...(authority === undefined ? {} : { authority }),
      ...(environment === undefined ? {} : { environment }),
      ...(volumes === undefined ? {} : { volumes }),
    });
    this.#state = 'waiting-confirm';
    return { type: 'hello', hello: parsed.value };
  }

  #confirm(line: Buffer): LinkEvent {
    const parsed = parseConfirm(line);
    if (!parsed.ok) return this.#break(`confirmation: ${parsed.reason}`);
    if (parsed.value.type === 'refused') {
      this.#state = 'over';
      return { type: 'refused', by: 'guest', message: parsed.value.message };
    }
    this.#state = 'linked';
    return { type: 'ready', problems: parsed.value.problems };
  }

  #break(reason: string): LinkEvent {
    this.#state = 'over';
    return { type: 'broken', reason };
  }

  #send(message: object): void {
    this.#output += `${JSON.stringify(message)}\n`;
  }
}
