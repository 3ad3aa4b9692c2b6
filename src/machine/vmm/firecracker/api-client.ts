/**
 * Firecracker's API: HTTP on a unix socket, one request at a time, each on its own connection. Answers are not trusted
 * to be well-formed, short or present.
 */
import { type IncomingMessage, request } from 'node:http';
import { text as readText } from 'node:stream/consumers';
import type { Clock } from '../../../base/clock.ts';
import { errorCode } from '../../../base/errors.ts';
import { VmmError, type VmmErrorCode } from '../errors.ts';
import { readAnswer } from './api-answer.ts';

export interface ApiCall {
  readonly method: 'GET' | 'PUT' | 'PATCH';
  readonly path: string;
  readonly body?: object;
  /** Default: `CALL_MS_MAX`. */
  readonly msMax?: number;
}

/**
 * An idle machine answers within 20 ms; a snapshot has its own limit. Before it answers a pause, Firecracker waits for
 * the threads of all virtual processors: with four concurrent VM starts on a busy host of two slow cores, 10 s were too
 * few.
 */
const CALL_MS_MAX = 30_000;
/** The longest answer, `/vm/config`, has some kilobytes. */
const ANSWER_BYTES_MAX = 256 * 1024;
const HEADER_BYTES_MAX = 8 * 1024;

/** Names the call, its status and Firecracker's message (R-CP-5). */
export class FirecrackerApiError extends VmmError {
  readonly endpoint: string;
  /** `null` without a complete answer. */
  readonly status: number | null;
  /** Firecracker's `fault_message`, bounded and without control characters, or `null`. */
  readonly fault: string | null;

  constructor(
    code: VmmErrorCode,
    call: ApiCall,
    what: string,
    more: { status?: number; fault?: string; cause?: unknown },
  ) {
    const endpoint = `${call.method} ${call.path}`;
    super(code, `Firecracker ${what} "${endpoint}"`, { cause: more.fault ?? more.cause });
    this.endpoint = endpoint;
    this.status = more.status ?? null;
    this.fault = more.fault ?? null;
  }
}

export class ApiClient {
  readonly #socketPath: () => string;
  readonly #clock: Clock;
  #last: Promise<unknown> = Promise.resolve();
  #isClosed = false;
  #current: { destroy(error: Error): void } | undefined;

  /** @param socketPath called for each call; the call fails with its error, or with `vm_gone` for `ENOENT` */
  constructor(socketPath: () => string, clock: Clock) {
    this.#socketPath = socketPath;
    this.#clock = clock;
  }

  /**
   * Runs after all earlier calls have ended.
   * @returns the answer's body: parsed JSON, or `null` without a body
   * @throws FirecrackerApiError `vmm_command_failed` if Firecracker refuses or the answer is invalid; `vmm_timeout`;
   * `vm_gone` if the socket does not answer
   */
  call(call: ApiCall): Promise<unknown> {
    const done = this.#last.then(() => this.#call(call));
    this.#last = done.catch(() => undefined);
    return done;
  }

  /** Ends the current call and refuses further ones: the process is gone. */
  close(): void {
    this.#isClosed = true;
    this.#current?.destroy(new Error('the process has ended'));
  }

  async #call(call: ApiCall): Promise<unknown> {
    if (this.#isClosed) throw gone(call, 'the process has ended');
    const { response, body } = await this.#exchange(call, this.#find(call));
    const status = response.statusCode ?? 0;
    const answer = readAnswer(status, body);
    if (answer.kind === 'value') return answer.value;
    const what = answer.kind === 'refused' ? 'refused' : 'broke off';
    throw new FirecrackerApiError('vmm_command_failed', call, what, { status, fault: answer.fault });
  }

  #find(call: ApiCall): string {
    try {
      return this.#socketPath();
    } catch (error) {
      throw errorCode(error) === 'ENOENT' ? gone(call, error) : error;
    }
  }

  async #exchange(call: ApiCall, socketPath: string): Promise<{ response: IncomingMessage; body: string }> {
    const payload = call.body === undefined ? undefined : JSON.stringify(call.body);
    const outgoing = request({
      socketPath,
      method: call.method,
      path: call.path,
      agent: false,
      maxHeaderSize: HEADER_BYTES_MAX,
      headers: {
        host: 'localhost',
        accept: 'application/json',
        ...(payload === undefined
          ? {}
          : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(payload) }),
      },
    });
    this.#current = outgoing;
    const late = Promise.withResolvers<never>();
    const cancel = this.#clock.after(call.msMax ?? CALL_MS_MAX, () => {
      late.reject(new FirecrackerApiError('vmm_timeout', call, 'did not answer', {}));
      outgoing.destroy();
    });
    let hasAnswer = false;
    outgoing.once('response', () => {
      hasAnswer = true;
    });
    try {
      return await Promise.race([exchanged(outgoing, payload), late.promise]);
    } catch (error) {
      if (error instanceof FirecrackerApiError) throw error;
      throw this.#isClosed ? gone(call, error) : failed(call, error, hasAnswer);
    } finally {
      cancel();
      this.#current = undefined;
      // The rest is not read.
      outgoing.on('error', () => undefined);
      outgoing.destroy();
    }
  }
}

async function exchanged(
  outgoing: ReturnType<typeof request>,
  payload: string | undefined,
): Promise<{ response: IncomingMessage; body: string }> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    outgoing.once('response', resolve);
    outgoing.once('error', reject);
    outgoing.end(payload);
  });
  let bytes = 0;
  response.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > ANSWER_BYTES_MAX) response.destroy(new Error('the answer is too long'));
  });
  // Rejects when the connection ends before the announced length.
  return { response, body: await readText(response) };
}

/** Connection failures before an answer, which mean that the process is dead or dying. */
const GONE = new Set(['ENOENT', 'ECONNREFUSED', 'ECONNRESET', 'EPIPE']);

function failed(call: ApiCall, error: unknown, hasAnswer: boolean): FirecrackerApiError {
  const code = errorCode(error) ?? '';
  if (GONE.has(code) && !hasAnswer) return gone(call, error);
  return new FirecrackerApiError('vmm_command_failed', call, 'broke off', { cause: error });
}

function gone(call: ApiCall, cause: unknown): FirecrackerApiError {
  return new FirecrackerApiError('vm_gone', call, 'is gone at', { cause });
}
