/** Ways in which a program can try to reach a server, each with its outcome (I/O). */
import { createSocket } from 'node:dgram';
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import { encodeQuery, parseAnswer } from '../src/egress/net/dns/message.ts';
import { PSK } from './map.ts';

/** On one machine, an answer takes milliseconds. */
const SILENCE_MS_MIN = 800;
const SILENCE_MS_MAX = 15_000;
/** Duration of a first TLS connection through a gateway, relative to one over TCP. */
const PATIENCE = 50;
/** Time without an answer that counts as silence, in this process. */
let silenceMs = SILENCE_MS_MIN;

/** @param answerMs duration of an answer over TCP here */
export function silenceFor(answerMs: number): number {
  return Math.min(SILENCE_MS_MAX, Math.max(SILENCE_MS_MIN, Math.ceil(PATIENCE * answerMs)));
}

/** @param ms from `silenceFor` */
export function setSilence(ms: number): void {
  silenceMs = ms;
}
const QUERY_ID = 4711;
const DNS_PORT = 53;

export interface CallOutcome {
  /** `answer`, `silence`, `closed` without data, or the errno or code of a refusal. */
  readonly outcome: string;
  readonly text: string;
}

export interface DnsOutcome extends CallOutcome {
  /** Code of the answer, RFC 1035 section 4.1.1; −1 without one. */
  readonly code: number;
  readonly addresses: readonly string[];
}

export interface ConnectionTry {
  readonly host: string;
  readonly port: number;
  /** Sent at once. */
  readonly text?: string;
}

/** Collects data until the other side closes or is silent. */
export function exchange({ host, port, text }: ConnectionTry): Promise<CallOutcome> {
  return listenTo(connect({ host, port }), text ?? '');
}

/** @param options.servername undefined: a hello without a name */
export function exchangeTls(options: ConnectionTry & { servername?: string }): Promise<CallOutcome> {
  const { host, port, servername, text } = options;
  const version = 'TLSv1.2' as const;
  const socket = connectTls({
    host,
    port,
    minVersion: version,
    maxVersion: version,
    ciphers: 'PSK',
    ...(servername === undefined ? {} : { servername }),
    pskCallback: () => ({ psk: Buffer.from(PSK), identity: 'proof' }),
    checkServerIdentity: () => undefined,
  });
  return listenTo(socket, text ?? '');
}

/** Over TLS with a certificate. @param options.ca PEM of the authority to trust */
export function exchangeHttps(
  options: ConnectionTry & { readonly servername?: string; readonly ca: string },
): Promise<CallOutcome> {
  const { host, port, servername = '', ca, text = '' } = options;
  return listenTo(connectTls({ host, port, ca, servername }), text);
}

function listenTo(socket: Socket, text: string): Promise<CallOutcome> {
  return new Promise((resolve) => {
    let received = '';
    const end = (outcome: string): void => {
      socket.destroy();
      resolve({ outcome: received === '' ? outcome : 'answer', text: received });
    };
    socket.setTimeout(silenceMs, () => end('silence'));
    socket.on('error', (error) => end(String(Reflect.get(error, 'code') ?? error.message)));
    socket.on('data', (bytes) => {
      received += bytes.toString('latin1');
    });
    socket.on('close', () => end('closed'));
    if (text !== '') socket.write(text, 'latin1');
  });
}

export const silenceTimer = (callback: () => void): NodeJS.Timeout => setTimeout(callback, silenceMs);

interface DatagramTry {
  readonly host: string;
  readonly port: number;
  readonly bytes: Uint8Array;
}

/** Uses a connected socket, so that ICMP refusals are reported. */
export function datagram({ host, port, bytes }: DatagramTry): Promise<CallOutcome & { bytes: Buffer }> {
  return new Promise((resolve) => {
    const socket = createSocket('udp4');
    const end = (outcome: string, answer: Buffer): void => {
      clearTimeout(timer);
      socket.close();
      resolve({ outcome, text: answer.toString('latin1'), bytes: answer });
    };
    const timer = silenceTimer(() => end('silence', Buffer.alloc(0)));
    socket.on('error', (error) => end(String(Reflect.get(error, 'code')), Buffer.alloc(0)));
    socket.on('message', (answer) => end('answer', answer));
    socket.connect(port, host, () => socket.send(bytes));
  });
}

export interface NameTry {
  readonly server: string;
  readonly name: string;
  readonly type: number;
  readonly transport: 'udp' | 'tcp';
}

export async function askName({ server, name, type, transport }: NameTry): Promise<DnsOutcome> {
  const query = encodeQuery(QUERY_ID, name, type);
  if (transport === 'udp') {
    const { outcome, bytes } = await datagram({ host: server, port: DNS_PORT, bytes: query });
    return dnsOutcome(outcome, bytes);
  }
  const length = Buffer.alloc(2);
  length.writeUInt16BE(query.length);
  const text = Buffer.concat([length, query]).toString('latin1');
  const answer = await exchange({ host: server, port: DNS_PORT, text });
  return dnsOutcome(answer.outcome, Buffer.from(answer.text, 'latin1').subarray(2));
}

function dnsOutcome(outcome: string, bytes: Buffer): DnsOutcome {
  const nothing = { outcome, code: -1, addresses: [], text: '' };
  if (outcome !== 'answer') return nothing;
  const parsed = parseAnswer(bytes);
  if (!parsed.ok) return { ...nothing, outcome: `not DNS (${parsed.reason})` };
  const { code, records } = parsed.value;
  const addresses = records.flatMap((record) => (record.type === 'CNAME' ? [] : [record.address]));
  return { outcome, code, addresses, text: `code ${code} ${addresses.join(' ')}`.trim() };
}
