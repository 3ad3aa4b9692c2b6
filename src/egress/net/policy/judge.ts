/**
 * Judges whether a guest's connection may go to its destination under the name that it gives. Pure.
 *
 * The destination must be an address that our resolver returned to *this* sandbox for *this* name, or one that a rule
 * for addresses allows. So IP = SNI = Host without decrypting TLS.
 */

import { type HeadProblem, hostText, type RequestHead } from '../http/head.ts';
import type { ClientHello, HelloProblem } from '../tls/client-hello.ts';
import type { Pins } from './pins.ts';
import type { RequestRefusal, RequestVerdict } from './request-policy.ts';
import type { NamePolicy, Verdict } from './verdict.ts';

export interface Endpoint {
  /** In the form of `plainAddress`. */
  readonly address: string;
  readonly port: number;
}

export interface GatewayVerdict extends Verdict {
  /** The kind of rule that allowed it: for the address, for the name, or mode open. */
  readonly basis?: 'address' | 'name' | 'open';
}

/** The part of an egress policy that the gateway needs; see `name-policy.ts`. */
export interface GatewayPolicy extends NamePolicy {
  /** @param names of the destination; empty if unknown */
  decide(destination: Endpoint, names: readonly string[]): GatewayVerdict;
  /** Judges method and path, after host and port were allowed. Default: allows every request. */
  allowsRequest?(request: RequestHead): RequestVerdict;
  /** True if `allowsRequest` must read requests to this name, so that TLS ends here. Default: never. */
  decrypts?(name: string): boolean;
  /** True if a byte budget of this name is exhausted. Default: never. */
  isExhausted?(name: string): boolean;
}

export type RefusalReason =
  | 'address_refused'
  | 'name_missing'
  | 'name_refused'
  /** Our resolver did not return this address to this sandbox for this name, or too long ago. */
  | 'not_pinned'
  | 'ech'
  | 'port_mismatch'
  | 'budget_spent'
  | 'request_refused'
  | RequestRefusal
  | 'second_hello'
  | `tls_${HelloProblem}`
  | `http_${HeadProblem}`;

export type Judgement =
  | { readonly ok: true; readonly name: string | undefined }
  | { readonly ok: false; readonly reason: RefusalReason; readonly why: string; readonly name?: string | undefined };

export class GatewayJudge {
  readonly #policy: () => GatewayPolicy;
  readonly #pins: Pins;
  readonly #destination: Endpoint;
  /** The name that was pinned at its first use here: a connection outlives its pins. */
  #pinnedName: string | undefined;

  /** @param policy called for every request, since it may change */
  constructor(policy: () => GatewayPolicy, pins: Pins, destination: Endpoint) {
    this.#policy = policy;
    this.#pins = pins;
    this.#destination = destination;
  }

  hello(hello: ClientHello): Judgement {
    const { serverName } = hello;
    const itself = this.#itself();
    if (itself.isDenied === true) return refusal('address_refused', itself.why, serverName);
    if (hello.hasEch && itself.basis !== 'address') {
      const why = 'the hello uses ECH, or appears to; disable it in the client to reach hosts that are allowed by name';
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

  decrypts(name: string): boolean {
    return this.#policy().decrypts?.(name) === true;
  }

  /**
   * Judges a name to decrypt: the address must be pinned to it, and no rule for addresses suffices.
   * @param isTrusted true if the guest trusts our certificate
   */
  decryptable(name: string, isTrusted: boolean): Judgement {
    if (!isTrusted) {
      const why = 'the guest does not trust our certificate';
      return refusal('request_refused', why, name);
    }
    const { address } = this.#destination;
    const isPinned = name === this.#pinnedName || this.#pins.isPinned(name, address);
    return isPinned ? { ok: true, name } : this.#notPinned(name);
  }

  /** Judges the destination without the given name; in mode open, under the names pinned to it. */
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
    if (this.#policy().isExhausted?.(name) === true) return refusal('budget_spent', exhaustedText(name), name);
    if (isPinned) this.#pinnedName = name;
    return { ok: true, name };
  }

  #notPinned(name: string): Judgement {
    const { address } = this.#destination;
    const why = `${address} is not an address that this sandbox looked up for ${name}`;
    return refusal('not_pinned', why, name);
  }
}

export function exhaustedText(name: string | undefined): string {
  return `the byte budget for ${name ?? 'this destination'} is exhausted`;
}

function refusal(reason: RefusalReason, why: string, name?: string): Judgement {
  return { ok: false, reason, why, name };
}
