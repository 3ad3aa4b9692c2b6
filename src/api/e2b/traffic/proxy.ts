/**
 * HTTP to a port of a sandbox, through the agent, so that no network card is needed.
 *
 * The program there is hostile. Its side and the client's are each parsed and framed by Node's HTTP. Each request gets
 * its own connection to the guest, so that no answer can pass for the answer to another request, and a broken answer
 * ends the client's connection instead of continuing on it. Nothing is buffered beyond what streams hold.
 */
import { type ClientRequest, request as httpRequest, type IncomingMessage, ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { discardRest } from '../../rest/body.ts';
import { TenantSlots } from '../../rest/slots.ts';
import { equalInConstantTime } from '../../tenants/callers.ts';
import { ownerOf } from '../../tenants/owner.ts';
import { keptOf } from '../kept.ts';
import type { E2bParts } from '../parts.ts';
import { answerHeaders, countOf, hintLinks, reasonPhrase, requestHeaders, trailers } from './headers.ts';
import { join } from './join.ts';
import { TRAFFIC_LIMITS } from './limits.ts';
import { badRequest, notHttp, type ProxyRefusal, refusalOf, sendRefusal } from './refusal.ts';
import { withTls } from './tls.ts';
import { watchIdle } from './watch.ts';

interface Target {
  readonly info: SandboxInfo;
  readonly port: number;
}

type Answer =
  | { readonly kind: 'answer'; readonly message: IncomingMessage }
  | {
      readonly kind: 'upgraded';
      readonly message: IncomingMessage;
      readonly connection: Duplex;
      readonly head: Buffer;
    };

export class PortProxy {
  readonly #parts: E2bParts;
  readonly #slots = new TenantSlots(
    'connections',
    TRAFFIC_LIMITS.exchangesMax,
    TRAFFIC_LIMITS.exchangeShares,
    TRAFFIC_LIMITS.exchangesPerSandboxMax,
  );

  constructor(parts: E2bParts) {
    this.#parts = parts;
  }

  /** Never rejects. */
  async answer(request: IncomingMessage, response: ServerResponse, info: SandboxInfo, port: number): Promise<void> {
    await this.#exchange(request, response, { info, port }, null);
  }

  /**
   * Upgrades a connection if the program does; otherwise its answer is the last one of the connection. Never rejects.
   */
  async join(request: IncomingMessage, client: Duplex, head: Buffer, info: SandboxInfo, port: number): Promise<void> {
    client.on('error', (error) => ignore(error, 'reported by the close that follows'));
    const response = answerOn(request, client);
    await this.#exchange(request, response, { info, port }, { client, head });
  }

  async #exchange(
    request: IncomingMessage,
    response: ServerResponse,
    target: Target,
    upgrade: { readonly client: Duplex; readonly head: Buffer } | null,
  ): Promise<void> {
    const { info, port } = target;
    const refuse = (refusal: ProxyRefusal): void => sendRefusal(request, response, refusal);
    const fault = faultOf(request, upgrade !== null);
    if (fault !== null) {
      refuse(badRequest(info.id, fault));
      return;
    }
    const gone = new AbortController();
    const carrier = upgrade?.client ?? response;
    const onClose = (): void => gone.abort(new Error('the client disconnected'));
    if (carrier.destroyed) return;
    carrier.once('close', onClose);
    let outgoing: ClientRequest | undefined;
    try {
      carrier.once('close', this.#slots.take(ownerOf(info), info.id));
      const guest = await this.#parts.control.guest(info.id);
      const plain = await guest.connect(port, gone.signal);
      plain.on('error', (error) => ignore(error, 'reported by the request on it'));
      if (gone.signal.aborted) {
        plain.destroy();
        return;
      }
      const isTls = keptOf(info).network?.httpsPorts?.includes(port) === true;
      const connection = isTls ? withTls(plain) : plain;
      carrier.once('close', () => {
        connection.destroy();
        plain.destroy();
        outgoing?.destroy();
      });
      outgoing = this.#send(request, connection, target, upgrade !== null);
      passInterim(outgoing, request, response);
      const answered = answerOf(outgoing);
      if (upgrade === null) sendBody(request, outgoing);
      else outgoing.end();
      watchIdle(upgrade?.client ?? request.socket, response);
      const answer = await answered;
      if (answer.kind === 'upgraded') {
        if (upgrade === null) throw new Error('it switched protocols without being asked');
        response.detachSocket(upgrade.client as Socket);
        join({ client: upgrade.client, clientHead: upgrade.head, ...answer });
      } else await relay(answer.message, response);
    } catch (error) {
      outgoing?.destroy();
      if (gone.signal.aborted) return;
      if (response.headersSent) response.destroy();
      else if (outgoing === undefined) refuse(refusalOf(error, info.id, port));
      else refuse(notHttp(info.id, port, describeError(error).slice(0, 200)));
    }
    // A client that still sends would not see the answer otherwise.
    if (upgrade === null && !request.complete) {
      await discardRest(request, this.#parts.clock);
      if (!request.complete) request.destroy();
    }
  }

  #send(request: IncomingMessage, connection: Duplex, { info, port }: Target, isUpgrade: boolean): ClientRequest {
    const token = this.#parts.tokens.envd(info.id);
    const mask = keptOf(info).network?.maskRequestHost;
    const headers = requestHeaders(request.rawHeaders, {
      host: mask === undefined ? null : mask.replace(/\$\{PORT\}/g, String(port)),
      upgrade: isUpgrade ? (request.headers.upgrade ?? null) : null,
      isSecret: (name, value) => name === 'x-access-token' && equalInConstantTime(value, token),
    });
    return httpRequest({
      method: request.method,
      path: request.url,
      headers: [...headers, ...framing(request)],
      createConnection: () => connection as never,
      setHost: false,
      maxHeaderSize: TRAFFIC_LIMITS.answerHeadBytesMax,
    });
  }
}

/** Why a request is not passed on; `null` if it is. */
function faultOf(request: IncomingMessage, isUpgrade: boolean): string | null {
  const { rawHeaders, url = '' } = request;
  if (countOf(rawHeaders, 'host') > 1) return 'The request has more than one Host header';
  if (!url.startsWith('/') && url !== '*') return 'The request target is not a path';
  if (isUpgrade && framing(request).length > 0 && request.headers['content-length'] !== '0') {
    return 'A request that upgrades the connection has no body';
  }
  return null;
}

/** Framing of the body for the program, as the parser has understood the client. */
function framing({ headers, method = '' }: IncomingMessage): string[] {
  if (headers['transfer-encoding'] !== undefined) return ['Transfer-Encoding', 'chunked'];
  const length = headers['content-length'];
  if (length !== undefined) return ['Content-Length', length];
  return ['POST', 'PUT', 'PATCH'].includes(method) ? ['Content-Length', '0'] : [];
}

/** Uses `pipe` rather than `pipeline`: a program that answers early must not cost the client its connection. */
function sendBody(request: IncomingMessage, outgoing: ClientRequest): void {
  outgoing.once('close', () => request.unpipe(outgoing));
  request.once('end', () => {
    if (outgoing.destroyed) return;
    const fields = trailers(request.rawTrailers);
    if (fields.length > 0) outgoing.addTrailers(fields as never);
    outgoing.end();
  });
  request.pipe(outgoing, { end: false });
}

function answerOf(outgoing: ClientRequest): Promise<Answer> {
  return new Promise((resolve, reject) => {
    outgoing.once('response', (message) => resolve({ kind: 'answer', message }));
    outgoing.once('upgrade', (message, connection, head) => resolve({ kind: 'upgraded', message, connection, head }));
    // Never removed: an error may follow the answer.
    outgoing.on('error', reject);
    outgoing.once('close', () => reject(new Error('it closed the connection')));
  });
}

/** Passes on hints; the server sends `100 Continue` before there is a connection to the program. */
function passInterim(
  outgoing: ClientRequest,
  { httpVersionMajor, httpVersionMinor }: IncomingMessage,
  response: ServerResponse,
): void {
  if (httpVersionMajor === 1 && httpVersionMinor === 0) return;
  let count = 0;
  outgoing.on('information', ({ statusCode, headers: { link } }) => {
    count += 1;
    if (count > TRAFFIC_LIMITS.interimMax || response.headersSent) return;
    try {
      if (statusCode === 102) response.writeProcessing();
      else if (statusCode === 103 && link !== undefined) {
        const links = [link].flat().flatMap(hintLinks);
        if (links.length > 0) response.writeEarlyHints({ link: links });
      }
    } catch (error) {
      ignore(error, 'a hint that is not valid is no answer');
    }
  });
}

async function relay(answer: IncomingMessage, response: ServerResponse): Promise<void> {
  const status = answer.statusCode ?? 0;
  if (status < 200 || status > 999) throw new Error(`it answered with the status ${status}`);
  const headers = answerHeaders(answer.rawHeaders, status);
  const phrase = reasonPhrase(answer.statusMessage);
  response.strictContentLength = true;
  // The program itself decides whether to send a date.
  response.sendDate = false;
  if (phrase === undefined) response.writeHead(status, headers);
  else response.writeHead(status, phrase, headers);
  response.flushHeaders();
  await pipeline(answer, response, { end: false });
  const fields = trailers(answer.rawTrailers);
  if (fields.length > 0) response.addTrailers(fields as never);
  response.end();
}

export function refuseUpgrade(request: IncomingMessage, client: Duplex, refusal: ProxyRefusal): void {
  client.on('error', (error) => ignore(error, 'reported by the close that follows'));
  sendRefusal(request, answerOn(request, client), refusal);
}

/** An answer on a connection that has left its server; it is the last one. */
function answerOn(request: IncomingMessage, client: Duplex): ServerResponse {
  const response = new ServerResponse(request);
  response.shouldKeepAlive = false;
  response.assignSocket(client as Socket);
  response.once('finish', () => {
    client.end();
    client.once('finish', () => client.destroy());
  });
  return response;
}
