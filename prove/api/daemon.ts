/** A daemon that proofs attack: a `neurovisor serve` of their own, in a home of its own (I/O). */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, readFile, rm, symlink } from 'node:fs/promises';
import { createServer, request } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { resolveHome } from '../../src/base/home.ts';
import { ignore } from '../../src/base/ignore.ts';
import { modulePath } from '../../src/base/module-path.ts';
import { ProofError } from '../errors.ts';
import type { JailContext } from '../proof-runtime.ts';
import { STEERING } from '../terminal.ts';

/** An answer of the daemon. */
interface Answer {
  readonly status: number;
  readonly body: string;
}

export interface Daemon extends AsyncDisposable {
  readonly url: string;
  readonly pid: number;
  readonly home: string;
  readonly modelAddress: string;
  /** Sends with a key. @param body JSON, or text as it is */
  ask(method: string, path: string, key: string, body?: unknown): Promise<Answer>;
  readonly operator: string;
  /** Creates a key of a tenant. */
  key(tenant: string): Promise<string>;
}

const READY_MS_MAX = 60_000;
const END_MS_MAX = 20_000;
/** In the path of the model server's URL. */
const MODEL_SERVER = 'secret-model-server';

/**
 * @param context `preload`, for tests: a module that removes a defense of the daemon
 * @param model name of the model server's only one
 */
export async function openDaemon(
  context: JailContext & { readonly preload?: string },
  model = STEERING,
): Promise<Daemon> {
  const stack = new AsyncDisposableStack();
  try {
    const home = await mkdtemp(join(tmpdir(), 'nv-daemon-'));
    stack.defer(() => rm(home, { recursive: true, force: true }));
    const { cacheDir } = resolveHome(context.config.home);
    await mkdir(cacheDir, { recursive: true, mode: 0o700 });
    await symlink(cacheDir, join(home, 'cache'));
    const models = await startModelServer(model);
    stack.defer(() => models.close());
    const { url, pid, apiKeyPath } = await startDaemon(stack, home, models.url, context);
    const operator = (await readFile(apiKeyPath, 'utf8')).trim();
    const ask: Daemon['ask'] = (method, path, key, body) => send(new URL(path, url), method, key, body);
    return {
      url,
      pid,
      home,
      modelAddress: models.address,
      ask,
      operator,
      key: async (tenant) => {
        const { body } = await ask('POST', '/v1/keys', operator, { tenant });
        return (JSON.parse(body) as { key: string }).key;
      },
      [Symbol.asyncDispose]: () => stack.disposeAsync(),
    };
  } catch (error) {
    await stack.disposeAsync();
    throw error;
  }
}

/** A daemon does not start without a model server. By default the model has a name that steers a terminal. */
async function startModelServer(model: string): Promise<{ url: string; address: string; close(): void }> {
  const server = createServer((_request, answer) =>
    answer.setHeader('content-type', 'application/json').end(JSON.stringify({ data: [{ id: model }] })),
  );
  await once(server.listen(0, '127.0.0.1'), 'listening');
  const { port } = server.address() as AddressInfo;
  const address = `127.0.0.1:${port}`;
  return { url: `http://${address}/${MODEL_SERVER}`, address, close: () => void server.close() };
}

async function startDaemon(
  stack: AsyncDisposableStack,
  home: string,
  upstream: string,
  { signal, preload }: { readonly signal?: AbortSignal; readonly preload?: string },
): Promise<{ url: string; pid: number; apiKeyPath: string }> {
  const main = modulePath('../../src/cli/main.ts', import.meta.url);
  const own = { NEUROVISOR_HOME: home, NEUROVISOR_UPSTREAM: upstream, NEUROVISOR_URL: '', NEUROVISOR_ON_STOP: 'end' };
  const env = { ...process.env, ...own };
  const first = preload === undefined ? [] : ['--import', preload];
  const child = spawn(process.execPath, [...first, main, 'serve', '--port', '0', '-o', 'json'], {
    env,
    stdio: ['ignore', 'pipe', 'ignore'],
    ...(signal === undefined ? {} : { signal }),
  });
  child.on('error', (error) => ignore(error, 'its end follows'));
  const ended = new Promise<void>((resolve) => child.once('close', () => resolve()));
  stack.defer(async () => {
    child.kill('SIGTERM');
    const late = setTimeout(() => child.kill('SIGKILL'), END_MS_MAX);
    await ended;
    clearTimeout(late);
  });
  return { ...(await readyReport(child)), pid: child.pid ?? 0 };
}

async function readyReport(child: ChildProcess): Promise<{ url: string; apiKeyPath: string }> {
  const late = setTimeout(() => child.kill('SIGKILL'), READY_MS_MAX);
  let text = '';
  try {
    for await (const line of createInterface({ input: child.stdout as NodeJS.ReadableStream })) {
      text += line;
      if (line === '}') return JSON.parse(text) as { url: string; apiKeyPath: string };
    }
  } finally {
    clearTimeout(late);
  }
  throw new ProofError('no_world', 'the daemon of the proof did not start', { cause: new Error(text.slice(0, 1000)) });
}

function send(url: URL, method: string, key: string, body?: unknown): Promise<Answer> {
  const content = typeof body === 'string' || body === undefined ? body : JSON.stringify(body);
  const headers = {
    ...(key === '' ? {} : { authorization: `Bearer ${key}`, 'x-api-key': key }),
    ...(content === undefined
      ? {}
      : { 'content-type': 'application/json', 'content-length': Buffer.byteLength(content) }),
  };
  return new Promise((resolve, reject) => {
    let isAnswered = false;
    const asked = request(url, { method, headers }, (answer) => {
      isAnswered = true;
      const chunks: Buffer[] = [];
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('close', () => resolve({ status: answer.statusCode ?? 0, body: Buffer.concat(chunks).toString() }));
    });
    asked.on('error', (error) => {
      // A server may refuse a body that it has not read, and close.
      if (isAnswered) ignore(error, 'the answer is there');
      else reject(error);
    });
    asked.end(content);
  });
}
