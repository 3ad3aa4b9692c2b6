/**
 * The hellos of a TLS connection that the gateway passes on without decrypting it. Pure.
 *
 *     guest's first hello ─► judged, `accept` ─► server's first bytes ─┬─ other ─► pass everything
 *                                                                      └─ retry ─► second hello ─► same? pass
 *
 * Bytes of the guest are held until the server's first bytes show whether it asks for a second hello.
 */
import { type ClientHello, ClientHelloReader } from '../tls/client-hello.ts';
import { SecondHello, ServerHelloStart } from '../tls/hello-retry.ts';
import type { EndReason } from './sandbox.ts';

export type HelloStep =
  | { readonly kind: 'more' }
  /** Do not read from the guest until the server has begun. */
  | { readonly kind: 'pause' }
  /** The first hello is complete. @property bytes everything from the guest so far */
  | { readonly kind: 'hello'; readonly hello: ClientHello; readonly bytes: Buffer }
  | { readonly kind: 'second_due' }
  | { readonly kind: 'pass'; readonly bytes: Buffer }
  | { readonly kind: 'release'; readonly bytes: readonly Buffer[] }
  | { readonly kind: 'refused'; readonly reason: EndReason; readonly why: string };

export class TlsHellos {
  readonly #first = new ClientHelloReader();
  #accepted: ClientHello | undefined;
  #held: Buffer[] = [];
  /** Set until the server has begun. */
  #server: ServerHelloStart | undefined;
  #second: SecondHello | undefined;

  get isServerDue(): boolean {
    return this.#server !== undefined;
  }

  get isSecondDue(): boolean {
    return this.#second !== undefined;
  }

  fromGuest(bytes: Buffer): HelloStep {
    if (this.#accepted === undefined) return this.#pushFirst(bytes);
    if (!this.isServerDue && !this.isSecondDue) return { kind: 'pass', bytes };
    this.#held.push(bytes);
    return this.isServerDue ? { kind: 'pause' } : this.#pushSecond(bytes);
  }

  /** Call after a `hello` step if the hello may be passed on. @returns its bytes; later ones are held */
  accept(hello: ClientHello): Buffer {
    const bytes = Buffer.concat(this.#held);
    const { wireBytes } = this.#first;
    this.#held = wireBytes < bytes.length ? [bytes.subarray(wireBytes)] : [];
    this.#accepted = hello;
    this.#server = new ServerHelloStart();
    return bytes.subarray(0, wireBytes);
  }

  fromServer(bytes: Buffer): HelloStep {
    const start = this.#server?.push(bytes);
    if (start === undefined || start === 'more') return { kind: 'more' };
    this.#server = undefined;
    if (start === 'other' || this.#accepted === undefined) return this.#release();
    this.#second = new SecondHello(this.#accepted);
    for (const held of this.#held) {
      const step = this.#pushSecond(held);
      if (step.kind !== 'more') return step;
    }
    return { kind: 'second_due' };
  }

  clear(): void {
    this.#held = [];
    this.#server = undefined;
  }

  #pushFirst(bytes: Buffer): HelloStep {
    this.#held.push(bytes);
    const state = this.#first.push(bytes);
    if (state.kind === 'more') return state;
    if (state.kind === 'hello') return { kind: 'hello', hello: state.hello, bytes: Buffer.concat(this.#held) };
    const why = `invalid or ambiguous ClientHello: ${state.reason}`;
    return { kind: 'refused', reason: `tls_${state.reason}`, why };
  }

  #pushSecond(bytes: Buffer): HelloStep {
    const state = this.#second?.push(bytes);
    if (state === undefined || state.kind === 'more') return { kind: 'more' };
    this.#second = undefined;
    if (state.kind === 'same') return this.#release();
    const why = `the second ClientHello differs from the first: ${state.reason}`;
    return { kind: 'refused', reason: 'second_hello', why };
  }

  #release(): HelloStep {
    const bytes = this.#held;
    this.#held = [];
    return { kind: 'release', bytes };
  }
}
