/**
 * Posts a sandbox's event to the URL of its caller (io). The host must not lend its place in the network: a target
 * passes the egress decision, and callers learn only whether the event was delivered.
 */
import { lookup } from 'node:dns/promises';
import { request as requestHttp } from 'node:http';
import { request as requestHttps } from 'node:https';
import { isIP, type LookupFunction } from 'node:net';
import { networkInterfaces } from 'node:os';
import { type Clock, systemClock } from '../base/clock.ts';
import { describeError } from '../base/errors.ts';
import type { Log } from '../base/log.ts';
import { orAborted, timeLimit } from '../base/time-limit.ts';
import { readAddress } from './net/addresses/addresses.ts';
import { reservedRangeOf } from './net/addresses/metadata.ts';
import { decide, type EgressDecision, type EgressRule } from './net/policy/policy.ts';

const LIMITS = {
  /** Limit in ms for name resolution, connection, request and the head of the answer together. */
  postMsMax: 5000,
  /** The body of an answer is not read. */
  headBytesMax: 16_384,
} as const;

export interface WebhookTarget {
  readonly address: string;
  readonly family: number;
}

export interface WebhookOptions {
  /** `HOST` or `HOST:PORT`, which may have private addresses. */
  readonly hosts: readonly string[];
  readonly log: Log;
  readonly clock?: Clock;
  /** Default: the host's resolver. */
  readonly resolve?: (name: string) => Promise<readonly WebhookTarget[]>;
}

/** @param event a text is sent unchanged */
export type PostEvent = (
  url: string,
  event: object | string,
  headers?: Readonly<Record<string, string>>,
) => Promise<void>;

/**
 * Returns a function that posts an event once, follows no redirect, and takes a status from 200 to 299 for success. It
 * throws the same Error whatever the cause.
 */
export function eventPoster(options: WebhookOptions): PostEvent {
  return async (text, event, headers = {}) => {
    const url = new URL(text);
    const body = typeof event === 'string' ? event : JSON.stringify(event);
    try {
      using limit = timeLimit(options.clock ?? systemClock, LIMITS.postMsMax);
      const targets = await allowedTargets(url, options, limit.signal);
      const status = await post(url, targets, { body, headers }, limit.signal);
      if (status < 200 || status > 299) throw new Error(`the server answered with status ${status}`);
    } catch (error) {
      const fields = { host: url.host, error: describeError(error) };
      options.log.warn('could not deliver an event to a webhook', fields);
      // Omits the cause: status, errno and decision would make this a scan of the host's networks.
      throw new Error('the event was not delivered; the log of the host has the cause');
    }
  };
}

/** Resolves the name once: the addresses judged here are those that the connection uses. */
async function allowedTargets(
  url: URL,
  { hosts, resolve = resolveAll }: WebhookOptions,
  signal: AbortSignal,
): Promise<readonly WebhookTarget[]> {
  const host = hostOf(url);
  const family = isIP(host);
  const found = family === 0 ? await orAborted(resolve(host), signal) : [{ address: host, family }];
  const own = ownAddresses();
  const judged = found.map((target) => ({ target, decision: decideWebhook(url, target.address, hosts, own) }));
  const allowed = judged.filter(({ decision }) => decision.allowed);
  if (allowed.length > 0) return allowed.map(({ target }) => target);
  const why = judged[0]?.decision.why ?? 'the name has no address';
  throw new Error(`${why}; NEUROVISOR_WEBHOOK_HOSTS may name hosts with private addresses`);
}

/**
 * Decides whether an event for `url` may be sent to an address: any public one except the host's own. If the owner
 * named the host, any except a metadata service. Pure.
 * @param hosts `HOST` or `HOST:PORT`
 * @param own addresses of the host
 */
export function decideWebhook(
  url: URL,
  address: string,
  hosts: readonly string[],
  own: readonly string[] = [],
): EgressDecision {
  const host = hostOf(url);
  const isNamed = hosts.some((text) => names(text, url));
  return decide(
    { mode: 'open', allow: isNamed ? ruleOf(address) : [], deny: isNamed ? [] : own.flatMap(ruleOf) },
    { address, port: portOf(url), protocol: 'tcp', names: isIP(host) === 0 ? [host] : [] },
  );
}

function names(text: string, url: URL): boolean {
  const [, host = '', port] = /^(.*?)(?::(\d+))?$/.exec(text) ?? [];
  const named = URL.parse(`http://${host}/`);
  if (named === null || hostOf(named) !== hostOf(url)) return false;
  return port === undefined || Number(port) === portOf(url);
}

/** The rule for exactly this address; none if it is not an address. */
function ruleOf(text: string): EgressRule[] {
  const address = readAddress(text);
  if (address === undefined) return [];
  const { family, value: base } = address;
  const block = { family, base, prefix: family === 4 ? 32 : 128 };
  return [{ kind: 'block', text, block, ports: undefined, protocol: undefined }];
}

/** Public addresses of the host; the others are refused as private. */
function ownAddresses(): string[] {
  return Object.values(networkInterfaces())
    .flatMap((all = []) => all.map(({ address }) => address))
    .filter((address) => reservedRangeOf(address) === undefined);
}

const resolveAll = (name: string): Promise<WebhookTarget[]> => lookup(name, { all: true });

/** Strips the brackets of IPv6 and the root's dot. */
const hostOf = ({ hostname }: URL): string => hostname.replace(/^\[(.*)\]$|\.$/, '$1');

const portOf = ({ port, protocol }: URL): number => Number(port) || (protocol === 'https:' ? 443 : 80);

/** Returns the status. `Host`, SNI and the certificate check use the name. */
function post(
  url: URL,
  targets: readonly WebhookTarget[],
  { body, headers }: { readonly body: string; readonly headers: Readonly<Record<string, string>> },
  signal: AbortSignal,
): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const lookupChecked: LookupFunction = (_name, { all }, callback) => {
    const [first] = targets;
    if (all === true) callback(null, [...targets]);
    else callback(null, first?.address ?? '', first?.family);
  };
  const send = url.protocol === 'https:' ? requestHttps : requestHttp;
  const request = send(url, {
    method: 'POST',
    port: portOf(url),
    headers: { ...headers, 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) },
    lookup: lookupChecked,
    maxHeaderSize: LIMITS.headBytesMax,
    // A new connection: that of another request was not checked for this one.
    agent: false,
    signal,
  });
  request.once('response', (answer) => {
    resolve(answer.statusCode ?? 0);
    request.destroy();
  });
  // Never removed: a destroyed request may report an error after its answer.
  request.on('error', reject);
  request.end(body);
  return promise;
}
