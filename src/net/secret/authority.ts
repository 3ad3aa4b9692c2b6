/**
 * Certificates in which one sandbox's guest trusts, for the hosts that its secrets belong to. The keys are made
 * here and never leave this process' memory.
 *
 *     root (P-256, in the guest's bundle) ──signs──► one certificate for each host, made when first asked for
 */
import type { SecureContext } from 'node:tls';
import type { Clock } from '../../base/clock.ts';
import type { Root } from './certificates.ts';

const DAY_MS = 24 * 3_600_000;
/** Of the seven that a host's certificate is valid: the rest is for guests whose clock is off. */
const LEAF_USED_DAYS = 4;
/** Each takes 54 KB, and a rule for `*.example.com` lets a guest ask for as many as it likes. */
export const HOSTS_MAX = 64;

interface Leaf {
  readonly context: Promise<SecureContext>;
  readonly remakeAtMs: number;
}

export class CertificateAuthority {
  readonly #clock: Pick<Clock, 'wall'>;
  readonly #leaves = new Map<string, Leaf>();
  #root: Promise<Root> | undefined;

  /** Nothing is made before it is asked for. */
  constructor(clock: Pick<Clock, 'wall'>) {
    this.#clock = clock;
  }

  /** Not written down with what holds it. */
  toJSON(): undefined {
    return undefined;
  }

  /** The root, as PEM: for the guest. */
  async certificate(): Promise<string> {
    const { pemOf } = await import('./certificates.ts');
    return pemOf(await this.#theRoot());
  }

  /** To be a server of this name with. @param host canonical */
  contextFor(host: string): Promise<SecureContext> {
    const now = this.#clock.wall();
    const known = this.#leaves.get(host);
    // Those last asked for stand last.
    this.#leaves.delete(host);
    if (known !== undefined && now < known.remakeAtMs) {
      this.#leaves.set(host, known);
      return known.context;
    }
    const [oldest] = this.#leaves.keys();
    if (oldest !== undefined && this.#leaves.size >= HOSTS_MAX) this.#leaves.delete(oldest);
    const leaf = { context: this.#makeLeaf(host), remakeAtMs: now + LEAF_USED_DAYS * DAY_MS };
    leaf.context.catch(() => this.#leaves.delete(host));
    this.#leaves.set(host, leaf);
    return leaf.context;
  }

  async #makeLeaf(host: string): Promise<SecureContext> {
    const { makeLeaf } = await import('./certificates.ts');
    return await makeLeaf(await this.#theRoot(), host, this.#clock.wall());
  }

  #theRoot(): Promise<Root> {
    this.#root ??= import('./certificates.ts').then(({ makeRoot }) => makeRoot(this.#clock.wall()));
    return this.#root;
  }
}
