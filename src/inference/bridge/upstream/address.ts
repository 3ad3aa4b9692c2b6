/** Addresses of upstreams. Pure. */
import { BlockList, isIP } from 'node:net';
import { BridgeError } from '../errors.ts';

export const UPSTREAM_APIS = ['openai', 'anthropic'] as const;
export type UpstreamApi = (typeof UPSTREAM_APIS)[number];

/** A model server. Comes from the host's configuration or detection, never from a guest. */
export interface UpstreamTarget {
  /** Display name, e.g. `Ollama at 127.0.0.1:11434`. Guests never see it. */
  readonly name: string;
  /**
   * `http(s)://host:port[/prefix]`. `/v1` is appended unless the prefix ends in a version or in a slash
   * (`https://host/v1beta/openai/`). With `socketPath` only the prefix counts.
   */
  readonly baseUrl?: string;
  readonly socketPath?: string;
  /** Default: OpenAI's. */
  readonly api?: UpstreamApi;
  /** Betas of Anthropic's API that guests may enable besides harmless ones. */
  readonly betas?: readonly string[];
  /** Sent as a bearer token, or as `x-api-key` to Anthropic's API. Stays on the host. */
  readonly apiKey?: string;
  /** Called when the server rejects the key. */
  readonly onDenied?: () => void;
  /** PEM of the only CA that may have signed its certificate. Default: those that the host trusts. */
  readonly authority?: string;
  readonly owner?: string;
  /** `owned_by` of its models, if known; shows the kind of server. */
  readonly modelOwner?: string;
  /** Concurrent requests; more wait in the bridge. If unknown, none waits. */
  readonly slots?: number;
  /** Its models, if known. The bridge fetches the list again for a name that is not in it. */
  readonly models?: readonly string[];
}

export interface Endpoint {
  readonly secure: boolean;
  readonly host: string;
  readonly port: number;
  readonly socketPath: string | undefined;
  /** Path before `/chat/completions`, e.g. `/v1`. */
  readonly prefix: string;
  readonly authority: string | undefined;
  /** Equal for targets that may share connections. */
  readonly key: string;
}

/** Cached: each request looks it up several times, and parsing URLs is slow. */
const KNOWN = new WeakMap<UpstreamTarget, Endpoint>();

export function endpointOf(target: UpstreamTarget): Endpoint {
  const known = KNOWN.get(target);
  if (known !== undefined) return known;
  const endpoint = parseEndpoint(target);
  KNOWN.set(target, endpoint);
  return endpoint;
}

function parseEndpoint(target: UpstreamTarget): Endpoint {
  const { baseUrl, socketPath } = target;
  if (baseUrl === undefined && socketPath === undefined) throw invalid('it has neither a URL nor a socket');
  const url = parseUrl(baseUrl ?? 'http://localhost');
  const secure = url.protocol === 'https:';
  const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
  const port = Number(url.port || (secure ? 443 : 80));
  const prefix = prefixOf(url.pathname);
  const place = socketPath === undefined ? `${url.protocol}//${url.host}` : `unix:${socketPath}`;
  const { authority } = target;
  const trust = authority === undefined ? '' : ` trusting ${authority}`;
  return { secure, host, port, socketPath, prefix, authority, key: place + trust };
}

const LOCAL = new BlockList();
LOCAL.addSubnet('127.0.0.0', 8);
LOCAL.addSubnet('10.0.0.0', 8);
LOCAL.addSubnet('172.16.0.0', 12);
LOCAL.addSubnet('192.168.0.0', 16);
LOCAL.addAddress('::1', 'ipv6');
LOCAL.addSubnet('fc00::', 7, 'ipv6');

/**
 * True for a socket, this host or an address of a private network. Any other address means that prompts are read
 * elsewhere.
 */
export function isLocal(target: UpstreamTarget): boolean {
  const { host, socketPath } = endpointOf(target);
  if (socketPath !== undefined || host === 'localhost') return true;
  const family = isIP(host);
  return family !== 0 && LOCAL.check(host, family === 6 ? 'ipv6' : 'ipv4');
}

/**
 * Parses a configured address: an http(s) URL, `host:port`, or `unix:/path[:/prefix]`.
 * @throws BridgeError `upstream_invalid`
 */
export function parseTarget(text: string, apiKey?: string): UpstreamTarget {
  const key = apiKey === undefined || apiKey === '' ? {} : { apiKey };
  const unix = /^unix:(?:\/\/)?(\/[^:\0]+)(?::(\/.*))?$/.exec(text);
  if (unix?.[1] !== undefined) {
    const prefix = unix[2] === undefined ? {} : { baseUrl: `http://localhost${unix[2]}` };
    return { name: `unix:${unix[1]}`, socketPath: unix[1], ...prefix, ...key };
  }
  const withScheme = /^[a-z0-9.-]+:\d+(?:\/|$)/i.test(text) ? `http://${text}` : text;
  const url = parseUrl(withScheme);
  return { name: url.host, baseUrl: withScheme, ...key };
}

function parseUrl(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url === undefined || !/^https?:$/.test(url.protocol)) throw invalid('it is not an http(s) URL');
  if (url.username !== '' || url.password !== '') throw invalid('it contains a user name or password');
  if (url.search !== '' || url.hash !== '') throw invalid('it contains a query or fragment');
  return url;
}

function prefixOf(path: string): string {
  if (path === '/') return '/v1';
  if (path.endsWith('/')) return path.slice(0, -1);
  return /\/v\d+[a-z0-9]*$/.test(path) ? path : `${path}/v1`;
}

function invalid(why: string): BridgeError {
  return new BridgeError('upstream_invalid', `invalid upstream address: ${why}`, {
    remedy: 'use http(s)://host:port[/prefix] or unix:/path/of.sock; put a key into NEUROVISOR_UPSTREAM_KEY',
  });
}
