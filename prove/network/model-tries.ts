/**
 * A hostile sandbox at the model bridge, beside one whose prompts it wants to learn; and a user of the host who listens
 * where a model server would.
 */
import { spawn } from 'node:child_process';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { createBridge } from '../../src/inference/bridge/bridge.ts';
import { detectUpstream } from '../../src/inference/bridge/upstream/detect.ts';
import { ProofError } from '../errors.ts';
import type { Notes } from '../proof.ts';

export interface ModelTries {
  /** `owned_by` of the model, by which the bridge knows a server that keeps caches apart. Default `vllm`. */
  readonly modelOwner?: string;
  /** Fields that pass unchecked. Default: none. */
  readonly allowFields?: readonly string[];
  /** The user who listens in the place of a model server. Default: nobody. */
  readonly listener?: number;
}

const MODEL = 'm';
const NOBODY = 65_534;
const SECRET_PROMPT = 'the launch code is 0000';

/** Each reaches for what is not the sandbox's own: the host's network, files and code, and others' entries of caches. */
const HOSTILE: readonly (readonly [string, object])[] = [
  ['a tool type in other letters', { tools: [{ type: 'function', TYPE: 'web_search' }] }],
  ['a tool of the server', { tools: [{ type: 'web_search' }] }],
  ['enable_search', { enable_search: true }],
  ['prompt_embeds', { prompt_embeds: 'AAAA' }],
  ['chat_template', { chat_template: '{{ messages }}' }],
  ['request_id', { request_id: 'of-another' }],
  ['cache_salt', { cache_salt: 'of-another' }],
  ['uuid of an image', { messages: [{ role: 'user', content: [{ type: 'image_url', uuid: 'of-another' }] }] }],
  ['a field that nobody knows', { surprise: 1 }],
];

/** @param dir for sockets */
export async function tryModels(notes: Notes, dir: string, tries: ModelTries = {}): Promise<void> {
  await using server = await startCachingServer(tries.modelOwner ?? 'vllm');
  const upstream = { name: 'caching', baseUrl: `${server.url}/v1` };
  const bridge = createBridge({ upstream: async () => upstream, clock: systemClock, log: silentLog });
  try {
    const attach = async (sandboxId: string): Promise<Ask> => {
      const socketPath = join(dir, sandboxId);
      await bridge.attach({ sandboxId, socketPath, policy: { allowFields: tries.allowFields ?? [] } });
      return (body) => post(socketPath, body);
    };
    const mallory = await attach('mallory');
    await tryCache(notes, server, await attach('victim'), mallory);
    await tryFields(notes, server, mallory);
  } finally {
    await bridge.close();
  }
  await tryListener(notes, tries.listener ?? NOBODY);
}

type Ask = (body: object) => Promise<Answer>;

const chat = (text: string): object => ({ model: MODEL, messages: [{ role: 'user', content: text }] });

async function tryCache(notes: Notes, server: CachingServer, victim: Ask, mallory: Ask): Promise<void> {
  await victim(chat(SECRET_PROMPT));
  await victim(chat(SECRET_PROMPT));
  notes.same('control: the model server has the prompt in its cache for its sandbox', '1 hit', `${server.hits} hit`);
  const answer = await mallory(chat(SECRET_PROMPT));
  notes.same('another sandbox guesses the prompt: answered', 'status 200', `status ${answer.status}`);
  notes.same('… its request hits the cache', '1 hit', `${server.hits} hit`);
  const again = await mallory(chat(SECRET_PROMPT));
  const told = /"cached_tokens":(\d+)/.exec(again.body)?.[1] ?? '0';
  notes.same(
    '… and an answer from its own cache tells cached tokens',
    '2 hits, 0 told',
    `${server.hits} hits, ${told} told`,
  );
}

async function tryFields(notes: Notes, server: CachingServer, mallory: Ask): Promise<void> {
  const control = { ...chat('hi'), tools: [{ type: 'function', function: { name: 'f' } }] };
  const { status } = await mallory(control);
  notes.same('control: a request with a tool of its own', 'status 200', `status ${status}`);
  for (const [what, fields] of HOSTILE) {
    const before = server.requests;
    const refused = await mallory({ ...chat('hi'), ...fields });
    const arrived = server.requests - before;
    notes.same(`a request with ${what}`, 'status 400; 0 arrived', `status ${refused.status}; ${arrived} arrived`);
  }
}

/** A server of another user at a usual port gets no prompt. */
async function tryListener(notes: Notes, uid: number): Promise<void> {
  const find = async (by: number): Promise<string> => {
    const places = await listenAs(by);
    try {
      const found = await detectUpstream({ places: [{ name: 'usual', baseUrl: places.url }] });
      return found === null ? 'not used' : 'used';
    } finally {
      places.stop();
    }
  };
  notes.same('control: a model server of this user at a usual port', 'used', await find(process.getuid?.() ?? 0));
  notes.same('a listener of another user there', 'not used', await find(uid));
}

/** A list of one model. The process may be unable to start as that user, who can't read this one's programs. */
const LISTENER = `process.setuid(Number(process.argv[1]));
const s = require('node:http').createServer((q, a) => a.end('{"data":[{"id":"m"}]}'));
s.listen(0, '127.0.0.1', () => process.stdout.write(s.address().port + '\\n')); process.stdin.resume().on('end', () => process.exit());`;

async function listenAs(uid: number): Promise<{ readonly url: string; stop(): void }> {
  const child = spawn(process.execPath, ['-e', LISTENER, String(uid)], { stdio: ['pipe', 'pipe', 'inherit'] });
  for await (const port of createInterface({ input: child.stdout }))
    return { url: `http://127.0.0.1:${port}`, stop: () => void child.kill() };
  throw new ProofError('no_world', 'the listener of another user did not start');
}

interface CachingServer extends AsyncDisposable {
  readonly url: string;
  readonly requests: number;
  /** Requests whose prompt was in the cache. */
  readonly hits: number;
}

/** Keeps prompts by salt, as vLLM does, and tells in its answers which it had. */
async function startCachingServer(owner: string): Promise<CachingServer> {
  const known = new Set<string>();
  let [requests, hits] = [0, 0];
  const server = createServer(async (incoming, answer) => {
    answer.setHeader('content-type', 'application/json');
    let text = '';
    for await (const chunk of incoming) text += String(chunk);
    if (incoming.method === 'GET') {
      answer.end(
        JSON.stringify({ object: 'list', data: [{ id: MODEL, object: 'model', created: 0, owned_by: owner }] }),
      );
      return;
    }
    requests += 1;
    const { messages, cache_salt: salt = '' } = JSON.parse(text) as { messages: unknown; cache_salt?: string };
    const key = `${salt} ${JSON.stringify(messages)}`;
    const isCached = known.has(key);
    if (isCached) hits += 1;
    known.add(key);
    const usage = {
      prompt_tokens: 8,
      completion_tokens: 1,
      total_tokens: 9,
      prompt_tokens_details: { cached_tokens: isCached ? 8 : 0 },
    };
    const message = { role: 'assistant', content: 'ok' };
    const choices = [{ index: 0, message, finish_reason: 'stop' }];
    answer.end(JSON.stringify({ id: 'x', object: 'chat.completion', created: 0, model: MODEL, choices, usage }));
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    get requests() {
      return requests;
    },
    get hits() {
      return hits;
    },
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

interface Answer {
  readonly status: number;
  readonly body: string;
}

function post(socketPath: string, body: object): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const path = '/v1/chat/completions';
    const headers = { 'content-type': 'application/json' };
    const asked = request({ socketPath, method: 'POST', path, headers, agent: false }, (answer) => {
      let text = '';
      answer.on('data', (chunk: Buffer) => {
        text += chunk.toString();
      });
      answer.once('end', () => resolve({ status: answer.statusCode ?? 0, body: text }));
    });
    asked.once('error', reject);
    asked.end(JSON.stringify(body));
  });
}
