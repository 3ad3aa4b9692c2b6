/**
 * A scripted model server in a thread of its own: it has a number of slots, and takes a fixed time for each token.
 * Requests beyond its slots wait in its queue, first come, first served.
 *
 * Any message requests a `ServerReport`. A prompt begins with the name of its caller and a space.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { parentPort, workerData } from 'node:worker_threads';
import { sleep } from '../../src/base/clock.ts';
import { monotonicMs, type ServerTurn, timesOf } from './server-times.ts';

export interface ServerSetup {
  readonly socketPath: string;
  readonly slots: number;
}

/** Activity since the last report. */
export interface ServerReport {
  /** Requests that had a slot in that time. */
  readonly turns: readonly ServerTurn[];
  /** Milliseconds that a slot was idle between two requests. */
  readonly gapsMs: readonly number[];
  /** Tokens by caller: prompts that were read, answers that were written. */
  readonly served: Readonly<Record<string, Tokens>>;
  /** Maximum length of the server's own queue. */
  readonly queuedMax: number;
}

export interface Tokens {
  readonly prompt: number;
  readonly answer: number;
}

interface Asked {
  readonly caller: string;
  readonly promptTokens: number;
  readonly answerTokens: number;
  readonly response: ServerResponse;
}

const CHARACTERS_PER_TOKEN = 4;
const { socketPath, slots } = workerData as ServerSetup;
const queue: Asked[] = [];
/** When each free slot became free; `null`: before the last report. */
const free: (number | null)[] = Array.from({ length: slots }, () => null);
let turns: { caller: string; begunAtMs: number; dueAtMs: number; endedAtMs: number | null }[] = [];
let gapsMs: number[] = [];
let served: Record<string, { prompt: number; answer: number }> = {};
let queuedMax = 0;

const server = createServer((request, response) => {
  if (request.method === 'GET') response.end('{"object":"list","data":[{"id":"bench"}]}');
  else void receive(request, response);
});
// The bridge keeps its connections longer.
server.keepAliveTimeout = 0;
server.listen(socketPath, () => parentPort?.postMessage('ready'));
parentPort?.on('message', report);

function report(): void {
  const all: ServerReport = { turns, gapsMs, served, queuedMax };
  parentPort?.postMessage(all);
  turns = turns.filter(({ endedAtMs }) => endedAtMs === null);
  gapsMs = [];
  served = {};
  queuedMax = queue.length;
  free.fill(null);
}

async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const parts: Buffer[] = [];
  for await (const part of request) parts.push(part as Buffer);
  const body = JSON.parse(Buffer.concat(parts).toString()) as {
    readonly messages: readonly { readonly content: string }[];
    readonly max_tokens: number;
  };
  const prompt = body.messages[0]?.content ?? '';
  const asked = {
    caller: prompt.split(' ', 1)[0] ?? '',
    promptTokens: Math.ceil(prompt.length / CHARACTERS_PER_TOKEN),
    answerTokens: body.max_tokens,
    response,
  };
  response.once('close', () => {
    const index = queue.indexOf(asked);
    if (index >= 0) queue.splice(index, 1);
  });
  queue.push(asked);
  next();
  queuedMax = Math.max(queuedMax, queue.length);
}

function next(): void {
  while (free.length > 0) {
    const asked = queue.shift();
    if (asked === undefined) return;
    const freeSinceMs = free.shift() ?? null;
    if (freeSinceMs !== null) gapsMs.push(monotonicMs() - freeSinceMs);
    void serve(asked).finally(() => {
      free.push(monotonicMs());
      next();
    });
  }
}

async function serve({ caller, promptTokens, answerTokens, response }: Asked): Promise<void> {
  const { chunks, dueMs } = timesOf(promptTokens, answerTokens);
  const begunAtMs = monotonicMs();
  const turn = { caller, begunAtMs, dueAtMs: begunAtMs + dueMs, endedAtMs: null as number | null };
  turns.push(turn);
  const gone = new AbortController();
  response.once('close', () => gone.abort());
  try {
    for (const [i, { tokens, atMs }] of chunks.entries()) {
      await sleep(Math.max(0, begunAtMs + atMs - monotonicMs()), gone.signal);
      served[caller] ??= { prompt: 0, answer: 0 };
      const sum = served[caller];
      if (i === 0) {
        sum.prompt += promptTokens;
        response.writeHead(200, { 'content-type': 'text/event-stream' });
      }
      sum.answer += tokens;
      const delta = { content: 'x'.repeat(tokens * CHARACTERS_PER_TOKEN) };
      response.write(event([{ index: 0, delta, finish_reason: null }]));
    }
    const usage = { prompt_tokens: promptTokens, completion_tokens: answerTokens };
    const stop = event([{ index: 0, delta: {}, finish_reason: 'stop' }]);
    response.end(`${stop}${event([], usage)}data: [DONE]\n\n`);
  } catch (error) {
    if (!gone.signal.aborted) throw error;
  } finally {
    turn.endedAtMs = monotonicMs();
  }
}

function event(choices: readonly object[], usage?: object): string {
  return `data: ${JSON.stringify({ id: 'chatcmpl-bench', choices, usage })}\n\n`;
}
