/** The engine's HTTP server: paths, bodies, streams, errors (io). `service.ts` produces the answers. */
import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { describeError } from '../../base/errors.ts';
import { ignore, tryOr } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import { MIB } from '../../base/units.ts';
import {
  type AnswerHead,
  type CompletionChoice,
  chatChunk,
  chatCompletion,
  chatDelta,
  completion,
  embeddingList,
  errorBody,
  modelObject,
  shorten,
  usageChunk,
} from './answer.ts';
import { EngineError, toEngineError } from './errors.ts';
import { parseChat, parseCompletion, parseEmbedding } from './openai-api.ts';
import type { ReplyEvent } from './reply.ts';
import type { Service } from './service.ts';

/** A full context is far smaller. */
export const BODY_BYTES_MAX = 8 * MIB;
const REQUEST_TIMEOUT_MS = 60_000;
const HEADERS_TIMEOUT_MS = 10_000;
const KEEP_ALIVE_MS = 60_000;
const CONNECTIONS_MAX = 512;
/** If the queue is full. */
const RETRY_AFTER_SECONDS = 2;

export interface ServerOptions {
  readonly modelId: string;
  /** Requests wait for it. Rejects with an `EngineError` if the model can't be loaded. */
  readonly service: Promise<Service>;
  readonly log: Log;
  readonly wall: () => number;
}

export function createEngineServer(options: ServerOptions): Server {
  const api = new Api(options);
  const server = createServer(
    {
      requestTimeout: REQUEST_TIMEOUT_MS,
      headersTimeout: HEADERS_TIMEOUT_MS,
      keepAliveTimeout: KEEP_ALIVE_MS,
      noDelay: true,
    },
    (request, response) => void api.handle(request, response),
  );
  server.maxConnections = CONNECTIONS_MAX;
  return server;
}

class Api {
  readonly #options: ServerOptions;
  readonly #startedSeconds: number;
  #loaded: Service | undefined;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#startedSeconds = Math.floor(options.wall() / 1000);
    options.service.then(
      (service) => {
        this.#loaded = service;
      },
      (error: unknown) => ignore(error, 'each request that needs the model reports it'),
    );
  }

  async handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const gone = new AbortController();
    response.on('close', () => gone.abort());
    response.on('error', (error) => ignore(error, 'the client disconnected'));
    try {
      await this.#route(request, response, gone.signal);
    } catch (error) {
      if (gone.signal.aborted) {
        ignore(error, 'the client disconnected');
        return;
      }
      this.#fail(response, toEngineError(error));
    }
  }

  async #route(request: IncomingMessage, response: ServerResponse, signal: AbortSignal): Promise<void> {
    const path = (request.url ?? '/').replace(/\?.*$/s, '').replace(/^\/v1(?=\/)/, '');
    const post = POST_PATHS.includes(path);
    if (post !== (request.method === 'POST') && (post || isGetPath(path))) {
      throw new EngineError('method_not_allowed', `method ${request.method} is not allowed for ${path}`);
    }
    if (path === '/health') return sendJson(response, 200, this.#health());
    if (path === '/models') return sendJson(response, 200, { object: 'list', data: [this.#model()] });
    if (path.startsWith('/models/')) {
      this.#checkModel(decodeModel(path.slice('/models/'.length)));
      return sendJson(response, 200, this.#model());
    }
    if (!post) throw new EngineError('not_found', `unknown path ${path}`);
    const body = await readJson(request);
    switch (path) {
      case '/chat/completions':
        return this.#chat(body, response, signal);
      case '/completions':
        return this.#complete(body, response, signal);
      default:
        return this.#embed(body, response, signal);
    }
  }

  async #chat(body: unknown, response: ServerResponse, signal: AbortSignal): Promise<void> {
    const request = parseChat(body);
    this.#checkModel(request.model);
    const service = await this.#options.service;
    const head = this.#head('chatcmpl');
    const callId = `call_${randomUUID().replaceAll('-', '')}`;
    if (!request.stream) {
      const events: ReplyEvent[] = [];
      const { finish, usage } = await service.chat(request, signal, (event) => {
        events.push(event);
      });
      return sendJson(response, 200, chatCompletion(head, events, callId, finish, usage));
    }
    const stream = new EventStream(response);
    // The role is sent with the first event, so that an earlier error still has its own status.
    const opening = once(() => stream.send(chatChunk(head, { role: 'assistant', content: '' }, null)));
    const { finish, usage } = await service.chat(request, signal, async (event) => {
      await opening();
      await stream.send(chatChunk(head, chatDelta(event, callId), null));
    });
    await opening();
    await stream.send(chatChunk(head, {}, finish));
    if (request.includeUsage) await stream.send(usageChunk(head, 'chat.completion.chunk', usage));
    stream.end();
  }

  async #complete(body: unknown, response: ServerResponse, signal: AbortSignal): Promise<void> {
    const request = parseCompletion(body);
    this.#checkModel(request.model);
    const service = await this.#options.service;
    const head = this.#head('cmpl');
    const stream = request.stream ? new EventStream(response) : null;
    const choices: CompletionChoice[] = [];
    const total = { promptTokens: 0, completionTokens: 0, cachedTokens: 0 };
    for (const [index, prompt] of request.prompts.entries()) {
      if (request.echo && typeof prompt !== 'string') {
        throw new EngineError('bad_request', 'echo: supported only for a text prompt', { param: 'echo' });
      }
      let text = request.echo && typeof prompt === 'string' ? prompt : '';
      const begin = once(async () => {
        if (text !== '') await stream?.send(completion(head, [{ index, text, finish: null }], null));
      });
      const { finish, usage } = await service.complete(request, prompt, signal, async (event) => {
        if (event.kind !== 'text') return;
        await begin();
        text += event.text;
        await stream?.send(completion(head, [{ index, text: event.text, finish: null }], null));
      });
      await begin();
      await stream?.send(completion(head, [{ index, text: '', finish }], null));
      choices.push({ index, text, finish });
      total.promptTokens += usage.promptTokens;
      total.completionTokens += usage.completionTokens;
      total.cachedTokens += usage.cachedTokens;
    }
    if (stream === null) return sendJson(response, 200, completion(head, choices, total));
    if (request.includeUsage) await stream.send(usageChunk(head, 'text_completion', total));
    stream.end();
  }

  async #embed(body: unknown, response: ServerResponse, signal: AbortSignal): Promise<void> {
    const request = parseEmbedding(body);
    this.#checkModel(request.model);
    const service = await this.#options.service;
    const { dimensions } = request;
    if (dimensions !== null && dimensions > service.info.embeddingLength) {
      throw new EngineError('bad_request', `dimensions: the model has only ${service.info.embeddingLength}`, {
        param: 'dimensions',
      });
    }
    const { vectors, tokens } = await service.embed(request, signal);
    const cut = dimensions === null ? vectors : vectors.map((one) => shorten(one, dimensions));
    sendJson(response, 200, embeddingList(this.#options.modelId, cut, request.encoding, tokens));
  }

  #head(prefix: string): AnswerHead {
    return {
      id: `${prefix}-${randomUUID().replaceAll('-', '')}`,
      created: Math.floor(this.#options.wall() / 1000),
      model: this.#options.modelId,
    };
  }

  #health(): object {
    const service = this.#loaded;
    if (service === undefined) return { status: 'loading', model: this.#options.modelId };
    return { status: 'ok', model: this.#options.modelId, ...service.info, ...service.load };
  }

  #model(): object {
    const context = this.#loaded?.info.contextTokens ?? null;
    return modelObject(this.#options.modelId, this.#startedSeconds, context);
  }

  #checkModel(asked: string): void {
    const { modelId } = this.#options;
    if (asked === modelId) return;
    throw new EngineError(
      'model_not_found',
      `unknown model ${JSON.stringify(asked)}; this engine has ${JSON.stringify(modelId)}`,
      { param: 'model' },
    );
  }

  #fail(response: ServerResponse, error: EngineError): void {
    const { status, body } = errorBody(error);
    if (status >= 500) this.#options.log.error(describeError(error), { code: error.code });
    if (response.headersSent) {
      // In a stream the error is the last event, without a [DONE].
      response.end(`data: ${JSON.stringify(body)}\n\n`);
      return;
    }
    if (status === 503) response.setHeader('retry-after', RETRY_AFTER_SECONDS);
    // The rest of an unread body must not be parsed as the next request.
    if (!response.req.complete) response.setHeader('connection', 'close');
    sendJson(response, status, body);
  }
}

const POST_PATHS = ['/chat/completions', '/completions', '/embeddings'];
const isGetPath = (path: string): boolean => /^\/(health$|models($|\/))/.test(path);

function decodeModel(text: string): string {
  return tryOr(text, 'no model has a malformed name', () => decodeURIComponent(text));
}

function sendJson(response: ServerResponse, status: number, body: object): void {
  const text = JSON.stringify(body);
  response.writeHead(status, { 'content-type': 'application/json', 'content-length': Buffer.byteLength(text) });
  response.end(text);
}

async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) {
      throw new EngineError('body_too_large', `the body is larger than ${BODY_BYTES_MAX} bytes`);
    }
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString('utf8'));
  } catch (error) {
    throw new EngineError('bad_request', 'the body is not JSON', { cause: error });
  }
}

/** Server-sent events with back-pressure. The head is sent with the first event. */
class EventStream {
  readonly #response: ServerResponse;

  constructor(response: ServerResponse) {
    this.#response = response;
  }

  async send(event: object): Promise<void> {
    const response = this.#response;
    if (!response.headersSent) {
      response.writeHead(200, { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' });
    }
    if (response.write(`data: ${JSON.stringify(event)}\n\n`) || response.destroyed) return;
    await new Promise<void>((resolve) => {
      const go = (): void => {
        response.off('drain', go);
        response.off('close', go);
        resolve();
      };
      response.on('drain', go);
      response.on('close', go);
    });
  }

  end(): void {
    this.#response.end('data: [DONE]\n\n');
  }
}

function once(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => {
    done ??= work();
    return done;
  };
}
