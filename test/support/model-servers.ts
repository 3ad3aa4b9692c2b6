/** Real model servers on loopback, each with the small model that set-up fetched. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { sleep } from '../../src/base/clock.ts';
import { ignore } from '../../src/base/ignore.ts';
import { eventually } from './eventually.ts';
import { freePort } from './free-port.ts';
import type { ServerProgram } from './model-server-programs.ts';

export interface ModelServer {
  readonly url: string;
  /** Name in the server's list. */
  readonly model: string;
  /** The server's own answer. */
  ask(path: string, body?: unknown): Promise<{ readonly status: number; readonly text: string }>;
  /** CPU time of its processes, in hundredths of a second. */
  cpuTicks(): number;
  isComputing(): Promise<boolean>;
  /** Kills it. */
  kill(): Promise<void>;
  close(): Promise<void>;
}

/** Maximum tokens of a request and its answer together. */
export const CONTEXT_TOKENS = 1024;
const MODEL = 'smollm2';
/**
 * The template of the model's file has no tools. This one tells Ollama that calls are JSON, and the model nothing of
 * the tools, which confuse it.
 */
const TEMPLATE = `{{- if .Tools }}{{ end }}{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}{{ range .ToolCalls }}{"name": "{{ .Function.Name }}", "arguments": {{ .Function.Arguments }}}{{ end }}<|im_end|>
{{ end }}<|im_start|>assistant
`;

export async function startOllama(found: ServerProgram): Promise<ModelServer> {
  const dir = mkdtempSync(join(tmpdir(), 'nv-ollama-'));
  const port = await freePort();
  const env = {
    HOME: dir,
    OLLAMA_HOST: `127.0.0.1:${port}`,
    OLLAMA_MODELS: join(dir, 'models'),
    OLLAMA_CONTEXT_LENGTH: `${CONTEXT_TOKENS}`,
    OLLAMA_NUM_PARALLEL: '2',
  };
  const server = await started({ dir, port, model: `${MODEL}:latest`, healthPath: '/', env }, found, ['serve']);
  try {
    const modelfile = join(dir, 'Modelfile');
    // More threads would wait for each other in busy loops.
    writeFileSync(modelfile, `FROM ${found.model}\nPARAMETER num_thread 1\nTEMPLATE """${TEMPLATE}"""\n`);
    const create = ['create', MODEL, '-f', modelfile];
    await execute(found.program, create, { env: { ...process.env, ...env } });
  } catch (error) {
    await server.close();
    throw error;
  }
  return server;
}

/** @param kind embeddings: it serves nothing else */
export async function startLlamaServer(found: ServerProgram, kind?: 'embeddings'): Promise<ModelServer> {
  const dir = mkdtempSync(join(tmpdir(), 'nv-llama-'));
  const port = await freePort();
  const env = { HOME: dir, CONTEXT_TOKENS: `${CONTEXT_TOKENS}` };
  const place = { dir, port, model: MODEL, healthPath: '/health', env };
  const kinds = kind === undefined ? [] : [kind];
  return await started(place, found, [found.model, `${port}`, ...kinds]);
}

const execute = promisify(execFile);

interface ServerPlace {
  /** Removed at its end. */
  readonly dir: string;
  readonly port: number;
  readonly model: string;
  /** Returns 200 once it serves. */
  readonly healthPath: string;
  readonly env: Readonly<Record<string, string>>;
}

async function started(
  { dir, port, model, healthPath, env }: ServerPlace,
  { program, args: first }: ServerProgram,
  args: readonly string[],
): Promise<ModelServer> {
  const url = `http://127.0.0.1:${port}`;
  const child = spawn(program, [...first, ...args], {
    cwd: dir,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const ended = once(child, 'exit');
  let log = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => {
      log = (log + text).slice(-LOG_CHARACTERS_MAX);
    });
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    const below = descendantsOf(child.pid ?? 0);
    if (child.exitCode === null && child.signalCode === null) child.kill(signal);
    await ended;
    for (const pid of below) killIfThere(pid);
  };
  const close = async (): Promise<void> => {
    await end('SIGTERM');
    rmSync(dir, { recursive: true, force: true });
  };
  const ask: ModelServer['ask'] = async (path, body) => {
    const init = body === undefined ? {} : { method: 'POST', body: JSON.stringify(body) };
    const headers = { 'content-type': 'application/json' };
    const response = await fetch(url + path, { ...init, headers });
    return { status: response.status, text: await response.text() };
  };
  try {
    await eventually(async () => {
      if (!isRunning(child)) throw new Error(`${program} ended: ${log}`);
      const { status } = await ask(healthPath);
      if (status !== 200) throw new Error(`not ready: ${status}`);
    });
  } catch (error) {
    await close();
    throw error;
  }
  const cpuTicks = (): number => ticksOf(child.pid ?? 0);
  return {
    url,
    model,
    ask,
    cpuTicks,
    isComputing: async () => {
      const before = cpuTicks();
      await sleep(LOOK_MS);
      return cpuTicks() - before >= BUSY_TICKS;
    },
    kill: () => end('SIGKILL'),
    close,
  };
}

const LOG_CHARACTERS_MAX = 4_000;
const LOOK_MS = 500;
/** An idle server needs at most one. */
const BUSY_TICKS = 5;

const isRunning = ({ exitCode, signalCode }: ChildProcess): boolean => exitCode === null && signalCode === null;

/** Ollama computes in a separate process for each model. */
function descendantsOf(pid: number): readonly number[] {
  const tasks = `/proc/${pid}/task`;
  if (!existsSync(tasks)) return [];
  const own = readdirSync(tasks).flatMap((task) =>
    textOf(`${tasks}/${task}/children`).split(' ').filter(Boolean).map(Number),
  );
  return own.flatMap((child) => [child, ...descendantsOf(child)]);
}

function ticksOf(pid: number): number {
  return [pid, ...descendantsOf(pid)].reduce((sum, one) => {
    const [user = 0, system = 0] = textOf(`/proc/${one}/stat`)
      .replace(/^.*\) /, '')
      .split(' ')
      .slice(11, 13)
      .map(Number);
    return sum + user + system;
  }, 0);
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    ignore(error, 'it has ended');
    return '';
  }
}

function killIfThere(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL');
  } catch (error) {
    ignore(error, 'it has ended with its parent');
  }
}
