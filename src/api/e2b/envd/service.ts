/**
 * The calls of E2B's envd, answered on the host with the guest's own operations: nothing of E2B runs in the guest.
 *
 *     POST /process.Process/NAME, /filesystem.Filesystem/NAME     Connect protocol
 *     GET /health · GET and POST /files
 */

import type { IncomingMessage } from 'node:http';
import { collect } from '../../../base/collect.ts';
import { describeError } from '../../../base/errors.ts';
import { type BodyTurns, withIdleLimit } from '../../rest/body.ts';
import { clientGone } from '../../rest/route.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts } from '../parts.ts';
import type { Call } from './call.ts';
import { CONNECT_STATUS, ConnectError, endFrame, frameOf, messagesOf, parseJson } from './connect.ts';
import { connectErrorOf } from './failures.ts';

export interface Outlet {
  /** Resolves when the client can take more, or has left. */
  send(message: unknown): Promise<void>;
  /** Sends `message` after each silence of `ms`. */
  keepAlive(ms: number, message: unknown): void;
  readonly gone: Promise<undefined>;
}

export type Rpc =
  | { readonly kind: 'unary'; run(call: Call, message: unknown): Promise<unknown> }
  | { readonly kind: 'server'; run(call: Call, message: unknown, outlet: Outlet): Promise<void> }
  | { readonly kind: 'client'; run(call: Call, messages: AsyncIterable<unknown>): Promise<unknown> };

/** @param turns of the sandbox's owner, in which large messages are parsed and checked */
export async function answerRpc(
  rpc: Rpc,
  call: Call,
  { clock, log }: Pick<E2bParts, 'clock' | 'log'>,
  turns: BodyTurns,
): Promise<void> {
  const { request, response } = call;
  if (rpc.kind === 'unary') {
    try {
      const message = await collect(withIdleLimit(request, clock), E2B_LIMITS.messageBytesMax, tooLarge);
      const answer = await turns.run(message.length, () => rpc.run(call, parseJson(message)));
      sendJson(200, answer);
    } catch (error) {
      const failure = failureOf(error);
      if (await dropsAtEnd(failure, call)) return;
      sendJson(CONNECT_STATUS[failure.code], { code: failure.code, message: failure.message });
    }
    return;
  }
  try {
    if (rpc.kind === 'client') {
      const answer = await rpc.run(call, messagesOf(partsOf(request), parse));
      open();
      response.write(frameOf(answer));
    } else {
      await serve(rpc);
    }
    response.end(endFrame());
  } catch (error) {
    const failure = failureOf(error);
    if (await dropsAtEnd(failure, call)) return;
    open();
    response.end(endFrame(failure));
  } finally {
    // Reads the rest of the body, so that the connection serves the client's next call.
    request.resume();
  }

  /** Not before the client's message: the Python client stops sending when it sees an answer. */
  function open(): void {
    if (response.headersSent) return;
    response.writeHead(200, { 'content-type': 'application/connect+json' });
    response.flushHeaders();
  }

  function parse(json: Buffer): Promise<unknown> {
    return turns.run(json.length, () => parseJson(json));
  }

  async function serve(stream: Extract<Rpc, { kind: 'server' }>): Promise<void> {
    const message = await firstMessage(messagesOf(withIdleLimit(request, clock), (json) => json));
    open();
    const outlet = outletTo(call, clock);
    try {
      await turns.run(message.length, () => stream.run(call, parseJson(message), outlet));
    } finally {
      outlet.close();
    }
  }

  function sendJson(status: number, body: unknown): void {
    const text = JSON.stringify(body);
    response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
    response.end(text);
  }

  function failureOf(error: unknown): ConnectError {
    const known = connectErrorOf(error);
    if (known !== null) return known;
    log.error(`envd ${request.url ?? ''}`, { error: describeError(error) });
    return new ConnectError('internal', 'internal server error');
  }
}

/**
 * Drops the connection if the call broke off because its sandbox has ended: clients of E2B then look whether it is there,
 * and say that it was killed or reached its end of life.
 */
async function dropsAtEnd({ code }: ConnectError, call: Call): Promise<boolean> {
  if (code !== 'unavailable' || !(await call.ended())) return false;
  call.response.destroy();
  return true;
}

const tooLarge = (): ConnectError =>
  new ConnectError('resource_exhausted', `the message has more than ${E2B_LIMITS.messageBytesMax} bytes`);

/** Does not end the connection when no more parts are read. */
function partsOf(request: IncomingMessage): AsyncIterable<Buffer> {
  return request.iterator({ destroyOnReturn: false });
}

/** Does not wait for anything after it. @throws ConnectError `invalid_argument` */
async function firstMessage(messages: AsyncIterable<Buffer>): Promise<Buffer> {
  for await (const message of messages) return message;
  throw new ConnectError('invalid_argument', 'there is no message');
}

function outletTo(call: Call, clock: E2bParts['clock']): Outlet & { close(): void } {
  const { response } = call;
  const signal = clientGone({ raw: call.response });
  const gone = new Promise<undefined>((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener('abort', () => resolve(undefined), { once: true });
  });
  let drained: Promise<void> | undefined;
  let stop = (): void => undefined;
  let restart = (): void => undefined;
  const send = async (message: unknown): Promise<void> => {
    restart();
    if (signal.aborted || response.writableEnded) return;
    if (response.write(frameOf(message))) return;
    drained ??= new Promise((resolve) => response.once('drain', resolve)).then(() => {
      drained = undefined;
    });
    await Promise.race([gone, drained]);
  };
  return {
    send,
    gone,
    keepAlive(ms, message) {
      restart = () => {
        stop();
        stop = clock.after(ms, () => {
          // A client that does not read needs no keep-alives, which would accumulate.
          if (response.writableNeedDrain) restart();
          else void send(message);
        });
      };
      restart();
    },
    close() {
      restart = () => undefined;
      stop();
    },
  };
}
