/** The code interpreter of `environments/code-interpreter` on this machine, with kernels of pinned packages. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { readyMadeDir } from '../../src/artifacts/ready-made.ts';
import { lockedPython, orReason, type PythonPackages } from './locked-packages.ts';

const LOCK = join(import.meta.dirname, '../fixtures/code-interpreter/server.lock');

/** Packages of the code interpreter, or the reason why they are missing. */
export const interpreterPackages = (): PythonPackages | string =>
  orReason(() => {
    const packages = lockedPython('code-interpreter', LOCK);
    // The wheel lacks the executable mode.
    chmodSync(join(dirname(packages.python), 'deno'), 0o755);
    return packages;
  });

export interface Line {
  readonly type: string;
  readonly [field: string]: unknown;
}

export interface Answer {
  readonly status: number;
  readonly text: string;
  readonly lines: readonly Line[];
}

export interface LocalInterpreter extends AsyncDisposable {
  readonly url: string;
  readonly home: string;
  /** Turns it into another sandbox: with its own machine id and variables. */
  become(machineId: string, env: Readonly<Record<string, string>>): void;
  execute(body: Readonly<Record<string, unknown>>, signal?: AbortSignal): Promise<Answer>;
  send(method: string, path: string, body?: unknown): Promise<Answer>;
}

export async function startInterpreter(packages: PythonPackages): Promise<LocalInterpreter> {
  const home = mkdtempSync(join(tmpdir(), 'nv-interpreter-'));
  const identity = { environ: join(home, '.environ'), machineId: join(home, '.machine-id') };
  mkdirSync(join(home, 'sub'));
  writeFileSync(identity.machineId, 'template');
  const args = ['-m', 'code_interpreter', '--port', '0', '--environ', identity.environ];
  const env = {
    ...packages.env,
    HOME: home,
    TMPDIR: home,
    PYTHONPATH: readyMadeDir('code-interpreter'),
    PYTHONDONTWRITEBYTECODE: '1',
    LANG: 'C.UTF-8',
  };
  const server = spawn(packages.python, [...args, '--machine-id', identity.machineId], {
    cwd: home,
    env,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let errors = '';
  server.stderr.on('data', (chunk: Buffer) => {
    errors += chunk.toString();
  });
  const url = `http://127.0.0.1:${await portOf(server, () => errors)}`;
  const send = async (method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Answer> => {
    const response = await fetch(url + path, {
      method,
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: signal ?? null,
    });
    const text = await response.text();
    const lines = path === '/execute' && response.ok ? parseLines(text) : [];
    return { status: response.status, text, lines };
  };
  return {
    url,
    home,
    send,
    become: (machineId, variables) => {
      const entries = Object.entries(variables).map(([name, value]) => `${name}=${value}\0`);
      writeFileSync(identity.environ, entries.join(''));
      writeFileSync(identity.machineId, machineId);
    },
    execute: (body, signal) => send('POST', '/execute', body, signal),
    [Symbol.asyncDispose]: async () => {
      const ended = once(server, 'exit');
      server.kill('SIGTERM');
      await ended;
      rmSync(home, { recursive: true, force: true });
    },
  };
}

/** Each line is a JSON object of ASCII characters, and none is blank: clients fail otherwise. */
function parseLines(text: string): Line[] {
  if (!/^[\x20-\x7e\n]*\n$/.test(text)) throw new Error(`not lines of ASCII: ${text}`);
  return text
    .slice(0, -1)
    .split('\n')
    .map((line) => JSON.parse(line) as Line);
}

async function portOf(server: ChildProcess, errors: () => string): Promise<number> {
  if (server.stdout === null) throw new Error('no output');
  for await (const line of createInterface({ input: server.stdout })) {
    const port = /^listening on (\d+)$/.exec(line)?.[1];
    if (port !== undefined) return Number(port);
  }
  throw new Error(`the code interpreter ended: ${errors()}`);
}
