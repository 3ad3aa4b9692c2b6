/** Opens connections to one daemon: at its socket, a port, or a port with TLS (io). */
import type { ClientRequest, RequestOptions } from 'node:http';
import { connect, isIP } from 'node:net';
import type { ConnectionOptions } from 'node:tls';
import type { SpanContext } from '../../base/trace/trace.ts';
import type { DaemonPlace } from './connect-failure.ts';
import { ClientError } from './errors.ts';
import type { DaemonWait } from './next-daemon.ts';

export type DaemonAddress = (
  | { readonly socketPath: string }
  | {
      /** For example `http://127.0.0.1:7070` or `https://box.example.org:7070`; a port needs the key. */
      readonly url: string;
      readonly apiKey?: string | undefined;
      /** PEM of the only authorities whose certificates are accepted. Default: those that Node.js trusts. */
      readonly ca?: string | undefined;
    }
) & { readonly trace?: SpanContext | undefined } & DaemonWait;

const IDLE_SOCKETS_MAX = 8;

type Target = Pick<RequestOptions, 'socketPath' | 'host' | 'port'> & ConnectionOptions;

export class Dialer {
  /** For errors. */
  readonly place: DaemonPlace;
  readonly #isTls: boolean;
  readonly #target: Target;
  readonly #http;
  readonly #agent;

  /** @throws ClientError `address_invalid` */
  constructor(address: DaemonAddress) {
    this.place = 'url' in address ? { url: checkedUrl(address.url) } : { socketPath: address.socketPath };
    this.#isTls = 'url' in this.place && this.place.url.protocol === 'https:';
    // An import would read every export of node:http, and so load undici: decision 39.
    this.#http = process.getBuiltinModule(this.#isTls ? 'node:https' : 'node:http');
    this.#target =
      'url' in this.place ? targetOf(this.place.url) : { ...this.place, host: 'localhost', servername: '' };
    if (this.#isTls && 'url' in address) {
      // NODE_TLS_REJECT_UNAUTHORIZED=0 would send the key to anyone.
      const trust: ConnectionOptions = { rejectUnauthorized: true, ALPNProtocols: ['http/1.1'] };
      this.#target = { ...this.#target, ...trust, ...(address.ca === undefined ? {} : { ca: address.ca }) };
    }
    this.#agent = new this.#http.Agent({ keepAlive: true, maxFreeSockets: IDLE_SOCKETS_MAX });
  }

  /** On a connection that is kept for the next request. */
  request(options: RequestOptions): ClientRequest {
    return this.#http.request({ ...this.#target, ...options, agent: this.#agent });
  }

  /** On a connection of its own that allows half-closes. */
  requestAlone(options: RequestOptions): ClientRequest {
    const createConnection = (): ReturnType<typeof connect> => {
      const { socketPath: path, ...target } = this.#target;
      const to = { ...target, ...(path ? { path } : {}), allowHalfOpen: true };
      return this.#isTls ? process.getBuiltinModule('node:tls').connect(to as never) : connect(to as never);
    };
    return this.#http.request({ ...this.#target, ...options, createConnection });
  }

  close(): void {
    this.#agent.destroy();
  }
}

/** @throws ClientError `address_invalid` */
function checkedUrl(text: string): URL {
  const url = URL.parse(text);
  const isDaemon = url !== null && /^https?:$/.test(url.protocol) && url.pathname === '/' && url.search === '';
  if (isDaemon && url.username === '' && url.password === '') return url;
  throw new ClientError('address_invalid', `invalid daemon address "${text}"`, {
    remedy: 'use http://HOST:PORT or https://HOST:PORT, for example http://127.0.0.1:7070',
  });
}

function targetOf({ hostname, port, protocol }: URL): Target {
  const host = hostname.replace(/^\[|\]$/g, '');
  const isTls = protocol === 'https:';
  // Without a name, the agent compiles a large pattern to detect whether the host is an address.
  const servername = isTls && isIP(host) === 0 ? host : '';
  return { host, servername, port: port === '' ? (isTls ? 443 : 80) : Number(port) };
}
