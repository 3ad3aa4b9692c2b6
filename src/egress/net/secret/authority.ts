/**
 * Certificates for the hosts of secrets, which one sandbox's guest trusts. The keys are generated here and never leave
 * the memory of this process.
 *
 *     root (P-256, in the guest's bundle) ──signs──► one certificate per host, created at its first use
 */
import type { SecureContext } from 'node:tls';
import type { Clock } from '../../../base/clock.ts';
import { type BucketLimit, TokenBucket } from '../../../base/token-bucket.ts';
import type { Root } from './certificates.ts';

const DAY_MS = 24 * 3_600_000;
/** Part of its seven days of validity; the rest is for guests with a wrong clock. */
const LEAF_USED_DAYS = 4;
/** Each takes 54 KB, and a rule for `*.example.com` lets a guest ask for any number. */
export const HOSTS_MAX = 64;

/**
 * Rate of new certificates. Each takes 3 ms of the event loop, and a guest that asks for more hosts than are kept needs
 * a new one each time.
 */
export const CERTIFICATES: BucketLimit = { size: 128, refillPerSecond: 8 };

interface Leaf {
  readonly context: Promise<SecureContext>;
  readonly remakeAtMs: number;
}

export class CertificateAuthority {
  readonly #clock: Pick<Clock, 'wall'>;
  readonly #leaves = new Map<string, Leaf>();
  readonly #bucket: TokenBucket;
  #root: Promise<Root> | undefined;

  /** Generates nothing before the first use. */
  constructor(clock: Pick<Clock, 'wall'>) {
    this.#clock = clock;
    this.#bucket = new TokenBucket(CERTIFICATES, clock.wall());
  }

  toJSON(): undefined {
    return undefined;
  }

  async certificate(): Promise<string> {
    const { pemOf } = await import('./certificates.ts');
    return pemOf(await this.#theRoot());
  }

  /**
   * The TLS context of a server with this name. Rejects if certificates of too many hosts were requested.
   * @param host canonical
   */
  contextFor(host: string): Promise<SecureContext> {
    const now = this.#clock.wall();
    const known = this.#leaves.get(host);
    // Most recently used last.
    this.#leaves.delete(host);
    if (known !== undefined && now < known.remakeAtMs) {
      this.#leaves.set(host, known);
      return known.context;
    }
    if (!this.#bucket.tryOpen(now))
      return Promise.reject(new Error('too many different hosts with secrets; retry later'));
    this.#bucket.spend(1);
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
