/** What the phases of one exchange share, and the steps that several of them take. */
import type { IncomingMessage } from 'node:http';
import { accepted, type Checked, type Refusal } from '../../../base/http/refusal.ts';
import { IdleTimer } from '../../../base/idle-timer.ts';
import type { RequestBody } from '../body/body.ts';
import type { CheckedBytes } from '../body/body-checker.ts';
import { checkRequest } from '../body/check-request.ts';
import type { Dialect, Operation } from '../dialect/dialect.ts';
import type { ExchangeEnd } from '../dispatched.ts';
import { BridgeError } from '../errors.ts';
import type { ExchangeContext } from '../exchange-context.ts';
import type { RequestHead } from '../record/request-head.ts';
import type { Reply } from '../reply.ts';

/** What all phases of one exchange use. */
export interface ExchangeParts {
  readonly context: ExchangeContext;
  readonly request: IncomingMessage;
  readonly dialect: Dialect;
  readonly reply: Reply;
  readonly body: RequestBody;
  readonly head: RequestHead;
  readonly silence: Silence;
  /** Aborts when the exchange is cancelled. */
  readonly signal: AbortSignal;
  readonly cancel: (reason: BridgeError) => void;
}

/** Cancels an exchange whose model server is silent for too long. It may still be starting. */
export class Silence {
  readonly #context: Pick<ExchangeContext, 'clock' | 'limits'>;
  readonly #cancel: ExchangeParts['cancel'];
  #timer: IdleTimer | undefined;

  constructor(context: Pick<ExchangeContext, 'clock' | 'limits'>, cancel: ExchangeParts['cancel']) {
    this.#context = context;
    this.#cancel = cancel;
  }

  watch(): void {
    const { clock, limits } = this.#context;
    this.#timer = new IdleTimer(clock, limits.silenceTimeoutMs, () => {
      const message = `the model server was silent for ${limits.silenceTimeoutMs} ms`;
      this.#cancel(new BridgeError('upstream_timeout', message));
    });
  }

  touch(): void {
    this.#timer?.touch();
  }

  stop(): void {
    this.#timer?.stop();
  }
}

export async function readBody({ body, request, signal }: ExchangeParts): Promise<Checked<Buffer>> {
  return await body.read(request, signal);
}

export async function checkBody(parts: ExchangeParts, operation: Operation, bytes: Buffer): Promise<CheckedBytes> {
  const { context, request: incoming, dialect, body, head, signal } = parts;
  const onCheck = (checking: Promise<unknown>): void => body.keepUntilSettled(checking);
  const request = {
    dialect,
    operation,
    bytes,
    contentType: incoming.headers['content-type'],
    signal,
    onCheck,
    content: head.mode,
  };
  const result = await checkRequest(context, request);
  const { checked } = result;
  return checked.ok ? { ...result, checked: accepted(head.take(checked.value)) } : result;
}

/** Refuses the request. */
export function refuse({ body, reply }: ExchangeParts, refusal: Refusal): ExchangeEnd {
  body.release();
  reply.fail(refusal);
  return 'refused';
}
