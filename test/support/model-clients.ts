/**
 * Unmodified clients of model servers, pinned by lock files in `test/fixtures/clients`. Scripts run as processes with a
 * sandbox's variables.
 */

import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, symlinkSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { clientsForNode, clientsForPython, lockedPython, orReason, type PythonPackages } from './locked-packages.ts';

export const MODEL_CLIENTS_DIR = join(import.meta.dirname, '../fixtures/model-clients');
const RUN_MS_MAX = 120_000;

export interface ModelClient {
  readonly program: string;
  /** Arguments before the scenario's name. */
  readonly args: readonly string[];
}

/** The package `anthropic` for Python, or the reason why there is none. */
export const pythonAnthropic = (): ModelClient | string => pythonClient('anthropic.py');

/** The package `@anthropic-ai/sdk` for Node.js, or the reason why there is none. */
export const nodeAnthropic = (): ModelClient | string => nodeClient('anthropic.mjs');

/** Vercel's AI SDK with its providers for OpenAI and Anthropic, or the reason why there is none. */
export const nodeAiSdk = (): ModelClient | string => nodeClient('ai.mjs');

/** The package `openai` for Python, or the reason why there is none. */
export const pythonOpenai = (): ModelClient | string => pythonClient('openai.py');

/** The package `openai` for Node.js, or the reason why there is none. */
export const nodeOpenai = (): ModelClient | string => nodeClient('openai.mjs');

/** The package `ollama` or `langchain-ollama` for Python, or the reason why there is none. */
export const pythonOllama = (script: 'ollama.py' | 'langchain-ollama.py'): ModelClient | string => pythonClient(script);

/** LlamaIndex and LiteLLM, 450 MB with their dependencies, or the reason why there are none. */
export const pythonFrameworks = (): ModelClient | string =>
  pythonClient('python/frameworks.py', () =>
    lockedPython('frameworks-python', join(MODEL_CLIENTS_DIR, 'python/frameworks.lock')),
  );

/** The package `ollama` for Node.js, or the reason why there is none. */
export const nodeOllama = (): ModelClient | string => nodeClient('ollama.mjs');

/**
 * Compiled packages for a guest, as a directory for PYTHONPATH, without those of its image; or the reason why there are
 * none.
 */
export const guestPackages = (): { readonly packages: string } | string =>
  orReason(() => {
    const lock = join(MODEL_CLIENTS_DIR, 'python/guest.lock');
    const { python } = lockedPython('guest-clients-python', lock);
    const packages = join(dirname(python), '../lib/python3.11/site-packages');
    // Emulated, it would take minutes. Files compiled in an earlier run stay.
    execFileSync(python, ['-m', 'compileall', '-q', '-j', '2', packages]);
    return { packages };
  });

/** Packages that `guest-node` imports. */
const GUEST_NODE = ['@ai-sdk/anthropic', '@ai-sdk/openai', '@anthropic-ai/sdk', 'ai', 'openai', 'zod'];

/**
 * A directory with Node.js (`bin/node`), its clients and `main.mjs`, whose links `tar -h` follows, or the reason why
 * there is none.
 */
export const guestNode = (): { readonly root: string } | string =>
  orReason(() => {
    const source = join(MODEL_CLIENTS_DIR, 'guest-node');
    const clients = clientsForNode();
    const root = mkdtempSync(join(tmpdir(), 'nv-guest-node-'));
    mkdirSync(join(root, 'bin'));
    symlinkSync(process.execPath, join(root, 'bin/node'));
    for (const name of readdirSync(source)) symlinkSync(join(source, name), join(root, name));
    for (const path of withDependencies(clients, GUEST_NODE)) {
      mkdirSync(dirname(join(root, path)), { recursive: true });
      symlinkSync(join(clients, path), join(root, path));
    }
    return { root };
  });

/** Paths of packages and their dependencies, from the lock file. Packages inside another one are included with it. */
function withDependencies(dir: string, names: readonly string[]): ReadonlySet<string> {
  const { packages } = JSON.parse(readFileSync(join(dir, 'package-lock.json'), 'utf8')) as {
    readonly packages: Readonly<Record<string, { readonly dependencies?: Readonly<Record<string, string>> }>>;
  };
  const places = new Set<string>();
  // Node.js looks beside a package first, then outwards.
  const placeOf = (name: string, from: string): string => {
    const place = `${from === '' ? '' : `${from}/`}node_modules/${name}`;
    if (from === '' || place in packages) return place;
    return placeOf(name, from.slice(0, Math.max(0, from.lastIndexOf('/node_modules/'))));
  };
  const add = (name: string, from: string): void => {
    const place = placeOf(name, from);
    if (places.has(place)) return;
    places.add(place);
    for (const needed of Object.keys(packages[place]?.dependencies ?? {})) add(needed, place);
  };
  for (const name of names) add(name, '');
  return new Set([...places].filter((place) => place.lastIndexOf('node_modules/') === 0));
}

/** @param script in the folder of the model clients */
const pythonClient = (script: string, packages: () => PythonPackages = clientsForPython): ModelClient | string =>
  orReason(() => ({ program: packages().python, args: [join(MODEL_CLIENTS_DIR, script)] }));

const nodeClient = (name: string): ModelClient | string =>
  orReason(() => {
    const script = join(MODEL_CLIENTS_DIR, name);
    const dir = clientsForNode();
    // `import` looks only beside the script, which is elsewhere.
    const hook = `import { registerHooks } from 'node:module'; import { pathToFileURL } from 'node:url';
      const parentURL = pathToFileURL(${JSON.stringify(join(dir, 'main.js'))}).href;
      const script = pathToFileURL(${JSON.stringify(script)}).href;
      registerHooks({ resolve: (name, context, next) =>
        next(name, context.parentURL === script ? { ...context, parentURL } : context) });`;
    const args = ['--import', `data:text/javascript,${encodeURIComponent(hook)}`, script];
    return { program: process.execPath, args };
  });

/** An agent of `examples/dialects` with its dialect's client, or the reason why there is none. */
export const dialectExample = (name: string) => pythonClient(`../../../examples/dialects/${name}`);

/** A sandbox's variables. @param port of the bridge */
export const sandboxVariables = (port: number) => ({
  PATH: process.env['PATH'],
  ANTHROPIC_BASE_URL: `http://127.0.0.1:${port}`,
  ANTHROPIC_API_KEY: 'neurovisor',
  OLLAMA_HOST: `http://127.0.0.1:${port}`,
  OPENAI_BASE_URL: `http://127.0.0.1:${port}/v1`,
  OPENAI_API_KEY: 'neurovisor',
  NEUROVISOR_MODEL: 'm1',
});

/** Runs one scenario. @returns the printed JSON; @throws if it fails or warns */
export async function runScenario(client: ModelClient, port: number, scenario: string): Promise<unknown> {
  return JSON.parse(await runClient(client, port, [scenario]));
}

/** @returns the output; @throws if it fails or warns */
export async function runClient(
  { program, args }: ModelClient,
  port: number,
  more: readonly string[] = [],
): Promise<string> {
  const env = sandboxVariables(port);
  return await new Promise((resolve, reject) => {
    execFile(program, [...args, ...more], { env, timeout: RUN_MS_MAX }, (error, out, warnings) => {
      if (error !== null) reject(error);
      else if (warnings !== '') reject(new Error(warnings));
      else resolve(out);
    });
  });
}

export interface Forwarder extends AsyncDisposable {
  readonly port: number;
}

/** A port of this machine that leads to a bridge's socket, as the guest's forwarder does. */
export async function forwardTo(socketPath: string): Promise<Forwarder> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (near) => {
    const far = connect({ path: socketPath, allowHalfOpen: true });
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(one);
      one.pipe(other);
      one.on('error', () => other.destroy());
      one.once('close', () => {
        sockets.delete(one);
        other.destroy();
      });
    }
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise<void>((resolve) => {
        server.close(() => resolve());
      });
    },
  };
}
