/**
 * Whether a connection that a guest opened to some address may go there under the name it gives. Pure.
 *
 * The destination must be an address that our resolver told *this* sandbox for *this* name, or one that a
 * rule for addresses allows; so IP = SNI = Host without looking into TLS.
 */
import type { ClientHello, HelloProblem } from './client-hello.ts';
import type { NamePolicy, Verdict } from './dns-answers.ts';
import { type HeadProblem, hostText, type RequestHead } from './http-head.ts';
import type { Pins } from './pins.ts';

export interface Destination {
  /** As `plainAddress` writes it. */
  readonly address: string;
  readonly port: number;
}

export interface GatewayPolicy extends NamePolicy {
  allowsName(name: string, port?: number): Verdict;
  /** By a rule for addresses, whatever the name. */
  allowsDestination(address: string, port: number): Verdict;
  /** By method and path, after host and port were allowed. Without: every request. */
  allowsRequest?(request: RequestHead): Verdict;
}

export type RefusalReason =
  | 'address_refused'
  | 'name_missing'
  | 'name_refused'
  /** Our resolver did not tell this sandbox this address for this name, or too long ago. */
  | 'not_pinned'
  | 'ech'
  | 'port_mismatch'
  | 'request_refused'
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

  /** Before a byte is read: whether there is any name under which the destination is right. */
  destination(): Judgement {
    const { address, port } = this.#destination;
    const policy = this.#policy();
    const itself = policy.allowsAddress(address);
    if (itself.isDenied === true) return refusal('address_refused', itself.why);
    const byRule = policy.allowsDestination(address, port);
    if (byRule.isDenied === true) return refusal('address_refused', byRule.why);
    if (!byRule.allowed && !itself.allowed) return refusal('address_refused', itself.why);
    return { ok: true, name: undefined };
  }

  hello(hello: ClientHello): Judgement {
    const early = this.destination();
    if (!early.ok) return early;
    const { serverName } = hello;
    const isByRule = this.#isByRule();
    if (hello.hasEch && !isByRule) {
      const why =
        'the hello is encrypted (ECH), or pretends to be; turn it off in the client to reach hosts that are allowed by name';
      return refusal('ech', why, serverName);
    }
    if (serverName !== undefined) return this.#named(serverName);
    if (isByRule) return { ok: true, name: undefined };
    return refusal(
      'name_missing',
      'the hello names no server, and no rule allows the address itself',
    );
  }

  head(head: RequestHead): Judgement {
    const early = this.destination();
    if (!early.ok) return early;
    const name = hostText(head.host);
    if (head.port !== this.#destination.port)
      return refusal(
        'port_mismatch',
        `Host names port ${head.port}, not the one connected to`,
        name,
      );
    const judged = head.host.kind === 'name' ? this.#named(name) : this.#literal(name);
    if (!judged.ok) return judged;
    const verdict = this.#policy().allowsRequest?.(head);
    if (verdict?.allowed === false) return refusal('request_refused', verdict.why, name);
    return judged;
  }

  #literal(address: string): Judgement {
    if (address !== this.#destination.address)
      return refusal('not_pinned', 'Host is not the address connected to', address);
    if (this.#isByRule()) return { ok: true, name: address };
    return refusal('address_refused', 'no rule allows the address itself', address);
  }

  #named(name: string): Judgement {
    const { address, port } = this.#destination;
    const verdict = this.#policy().allowsName(name, port);
    if (verdict.isDenied === true) return refusal('name_refused', verdict.why, name);
    if (this.#isByRule()) return { ok: true, name };
    if (!verdict.allowed) return refusal('name_refused', verdict.why, name);
    if (name !== this.#pinnedName && !this.#pins.isPinned(name, address)) {
      const why = `${address} is not an address that this sandbox was told for ${name}`;
      return refusal('not_pinned', why, name);
    }
    this.#pinnedName = name;
    return { ok: true, name };
  }

  #isByRule(): boolean {
    return this.#policy().allowsDestination(this.#destination.address, this.#destination.port)
      .allowed;
  }
}

function refusal(reason: RefusalReason, why: string, name?: string): Judgement {
  return { ok: false, reason, why, name };
}
