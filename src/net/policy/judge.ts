/**
 * Whether a connection that a guest opened to some address may go there under the name it gives. Pure.
 *
 * The destination must be an address that our resolver told *this* sandbox for *this* name, or one that a
 * rule for addresses allows; so IP = SNI = Host without looking into TLS.
 */

import { type HeadProblem, hostText, type RequestHead } from '../http/head.ts';
import type { ClientHello, HelloProblem } from '../tls/client-hello.ts';
import type { Pins } from './pins.ts';
import type { RequestRefusal, RequestVerdict } from './request-policy.ts';
import type { NamePolicy, Verdict } from './verdict.ts';

export interface Destination {
  /** As `plainAddress` writes it. */
  readonly address: string;
  readonly port: number;
}

export interface GatewayVerdict extends Verdict {
  /** A yes is for the address itself, for the names, or for everything. */
  readonly basis?: 'address' | 'name' | 'open';
}

/** What the gateway needs of an egress policy; see `name-policy.ts`. */
export interface GatewayPolicy extends NamePolicy {
  /** @param names what the destination is called; none where that is not known */
  decide(destination: Destination, names: readonly string[]): GatewayVerdict;
  /** By method and path, after host and port were allowed. Without: every request. */
  allowsRequest?(request: RequestHead): RequestVerdict;
  /** TLS to this name is ended here, for `allowsRequest` has to read it. Without: never. */
  decrypts?(name: string): boolean;
  /** A budget of bytes for this name is used up. Without: never. */
  isExhausted?(name: string): boolean;
}

export type RefusalReason =
  | 'address_refused'
  | 'name_missing'
  | 'name_refused'
  /** Our resolver did not tell this sandbox this address for this name, or too long ago. */
  | 'not_pinned'
  | 'ech'
  | 'port_mismatch'
  /** The bytes that may be exchanged with this name are used up. */
  | 'budget_spent'
  | 'request_refused'
  | RequestRefusal
  | 'second_hello'
  | `tls_${HelloProblem}`
  | `http_${HeadProblem}`;

export type Judgement =
  | { readonly ok: true; readonly name: string | undefined }
  | {
      readonly ok: false;
      readonly reason: RefusalReason;
      readonly why: string;
      readonly name?: string | undefined;
    };

/** Judges everything that comes on one connection. */
export class GatewayJudge {
  readonly #policy: () => GatewayPolicy;
  readonly #pins: Pins;
  readonly #destination: Destination;
  /** Was pinned when it was used here first; a connection outlives the pins it began with. */
  #pinnedName: string | undefined;

  /** @param policy asked anew for every request, for it may change */
  constructor(policy: () => GatewayPolicy, pins: Pins, destination: Destination) {
    this.#policy = policy;
    this.#pins = pins;
    this.#destination = destination;
  }

  hello(hello: ClientHello): Judgement {
    const { serverName } = hello;
    const itself = this.#itself();
    if (itself.isDenied === true) return refusal('address_refused', itself.why, serverName);
    if (hello.hasEch && itself.basis !== 'address') {
      const why =
        'the hello is encrypted (ECH), or pretends to be; turn it off in the client to reach hosts that are allowed by name';
      return refusal('ech', why, serverName);
    }
    if (serverName !== undefined) return this.#named(serverName);
    if (itself.allowed) return { ok: true, name: undefined };
    return refusal('name_missing', `the hello names no server, and ${itself.why}`);
  }

  head(head: RequestHead): Judgement {
    const name = hostText(head.host);
    const itself = this.#itself();
    if (itself.isDenied === true) return refusal('address_refused', itself.why, name);
    if (head.port !== this.#destination.port) {
      const why = `Host names port ${head.port}, not the one connected to`;
      return refusal('port_mismatch', why, name);
    }
    const judged = head.host.kind === 'name' ? this.#named(name) : this.#literal(name, itself);
    if (!judged.ok) return judged;
    const verdict = this.#policy().allowsRequest?.(head);
    if (verdict?.allowed === false) {
      return refusal(verdict.reason ?? 'request_refused', verdict.why, name);
    }
    return judged;
  }

  /** Whether requests to it by TLS are to be read. */
  decrypts(name: string): boolean {
    return this.#policy().decrypts?.(name) === true;
  }

  /**
   * Where TLS is ended no rule for addresses will do: the address must be one of the name's.
   * @param isTrusted the guest has a certificate of ours
   */
  readable(name: string, isTrusted: boolean): Judgement {
    if (!isTrusted) {
      const why = 'its guest has no certificate of ours to trust in';
      return refusal('request_refused', why, name);
    }
    const { address } = this.#destination;
    const isPinned = name === this.#pinnedName || this.#pins.isPinned(name, address);
    return isPinned ? { ok: true, name } : this.#notPinned(name);
  }

  /** The destination, whatever it is called now; where everything is open, under the names it is known by. */
  #itself(): GatewayVerdict {
    const policy = this.#policy();
    const itself = policy.decide(this.#destination, []);
    if (itself.basis !== 'open') return itself;
    return policy.decide(this.#destination, this.#pins.namesOf(this.#destination.address));
  }

  #literal(address: string, itself: GatewayVerdict): Judgement {
    if (address !== this.#destination.address)
      return refusal('not_pinned', 'Host is not the address connected to', address);
    if (itself.allowed) return { ok: true, name: address };
    return refusal('address_refused', itself.why, address);
  }

  #named(name: string): Judgement {
    const verdict = this.#policy().decide(this.#destination, [name]);
    if (!verdict.allowed) return refusal('name_refused', verdict.why, name);
    const { address } = this.#destination;
    const isPinned = name === this.#pinnedName || this.#pins.isPinned(name, address);
    if (verdict.basis === 'name' && !isPinned) return this.#notPinned(name);
    if (this.#policy().isExhausted?.(name) === true)
      return refusal('budget_spent', exhaustedText(name), name);
    if (isPinned) this.#pinnedName = name;
    return { ok: true, name };
  }

  #notPinned(name: string): Judgement {
    const { address } = this.#destination;
    const why = `${address} is not an address that this sandbox was told for ${name}`;
    return refusal('not_pinned', why, name);
  }
}

/** For people. */
export function exhaustedText(name: string | undefined): string {
  return `the bytes that may be exchanged with ${name ?? 'it'} are used up`;
}

function refusal(reason: RefusalReason, why: string, name?: string): Judgement {
  return { ok: false, reason, why, name };
}
