/** Connections to indexes: kept open for hosts that the owner chose, new ones for all others (io). */
import { Agent as HttpAgent } from 'node:http';
import { type AgentOptions, Agent as HttpsAgent } from 'node:https';
import { createSecureContext, getCACertificates, type SecureContext } from 'node:tls';
import type { Clock } from '../../../base/clock.ts';
import type { Index } from './index-set.ts';
import { proxyFor } from './proxy.ts';

const IDLE_MAX = 8;
const HOSTS_MAX = 32;

/**
 * Ends the connection to a proxy that opens no tunnel in time: Node waits for the handshake behind it without a limit.
 */
class TunnelAgent extends HttpsAgent {
  readonly #after: (end: () => void) => () => void;

  constructor(options: AgentOptions, after: (end: () => void) => () => void) {
    super(options);
    this.#after = after;
  }

  override createConnection(
    ...[options, done]: Parameters<HttpsAgent['createConnection']>
  ): ReturnType<HttpsAgent['createConnection']> {
    const socket = super.createConnection(options, (...result) => {
      cancel();
      done?.(...result);
    });
    const cancel = this.#after(() => socket?.destroy());
    return socket;
  }
}

export class Connections {
  readonly #clock: Clock;
  readonly #tunnelMsMax: number;
  readonly #agents = new Map<string, HttpAgent>();
  readonly #contexts = new Map<string | undefined, SecureContext>();

  constructor(clock: Clock, tunnelMsMax: number) {
    this.#clock = clock;
    this.#tunnelMsMax = tunnelMsMax;
  }

  /**
   * @param isTrusted false if its address must be checked, so that no connection of an earlier check may be reused
   * @param isFresh true to use no existing connection
   */
  agentFor(url: URL, index: Index, isTrusted: boolean, isFresh: boolean): HttpAgent {
    const { ca } = isTrusted ? index : {};
    const proxy = proxyFor(url, index);
    const key = `${url.origin} ${proxy ?? ''} ${ca ?? ''}`;
    const known = this.#agents.get(key);
    const isKept = isTrusted && !isFresh;
    if (isKept && known !== undefined) return known;
    // A page may name any port of a host, and agents in use are never dropped.
    if (!isKept || this.#agents.size >= HOSTS_MAX) return this.#make(url, ca, proxy, false);
    const agent = this.#make(url, ca, proxy, true);
    this.#agents.set(key, agent);
    return agent;
  }

  close(): void {
    for (const agent of this.#agents.values()) agent.destroy();
    this.#agents.clear();
  }

  #make(url: URL, ca: string | undefined, proxy: string | undefined, keepAlive: boolean): HttpAgent {
    const options = {
      keepAlive,
      maxFreeSockets: IDLE_MAX,
      scheduling: 'lifo' as const,
      // The choice of URLs was made here; Node only speaks to the proxy.
      ...(proxy === undefined ? {} : { proxyEnv: { HTTP_PROXY: proxy, HTTPS_PROXY: proxy } }),
    };
    if (url.protocol !== 'https:') return new HttpAgent(options);
    const secure = { ...options, secureContext: this.#context(ca) };
    if (proxy === undefined) return new HttpsAgent(secure);
    return new TunnelAgent(secure, (end) => this.#clock.after(this.#tunnelMsMax, end));
  }

  /** Cached: reading the certificates takes longer than a handshake. */
  #context(ca: string | undefined): SecureContext {
    const known = this.#contexts.get(ca);
    if (known !== undefined) return known;
    const all = [...getCACertificates('default'), ...getCACertificates('system')];
    const context = createSecureContext({ ca: ca === undefined ? all : [...all, ca] });
    this.#contexts.set(ca, context);
    return context;
  }
}
