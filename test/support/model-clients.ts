/**
 * Unmodified clients of model servers, pinned by lock files in `test/fixtures/model-clients`. Scripts run as processes with
 * the variables that a sandbox has.
 */

import { execFile, execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, symlinkSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { lockedNode, lockedPython, orReason } from './locked-packages.ts';

export const MODEL_CLIENTS_DIR = join(import.meta.dirname, '../fixtures/model-clients');
const RUN_MS_MAX = 120_000;

export interface ModelClient {
  readonly program: string;
  /** Before the scenario's name. */
  readonly args: readonly string[];
}

/** The package `anthropic` for Python, or why there is none. */
export const pythonAnthropic = (): ModelClient | string =>
  pythonClient({ lock: 'anthropic', script: 'anthropic.py' });

/** The package `@anthropic-ai/sdk` for Node.js, or why there is none. */
export const nodeAnthropic = (): ModelClient | string =>
  nodeClient({ lock: 'node', script: 'anthropic.mjs' });

/** Vercel's AI SDK with its providers for OpenAI and Anthropic, or why there is none. */
export const nodeAiSdk = (): ModelClient | string =>
  nodeClient({ lock: 'node-ai', script: 'ai.mjs' });

/** The package `openai` for Python, or why there is none. */
export const pythonOpenai = (): ModelClient | string =>
  pythonClient({ lock: 'openai', script: 'openai.py' });

/** The package `openai` for Node.js, or why there is none. */
export const nodeOpenai = (): ModelClient | string =>
  nodeClient({ lock: 'node-openai', script: 'openai.mjs' });

/** The package `ollama` or `langchain-ollama` for Python, or why there is none. */
export const pythonOllama = (script: 'ollama.py' | 'langchain-ollama.py'): ModelClient | string =>
  pythonClient({ lock: 'ollama', script });

/** LlamaIndex and LiteLLM, 450 MB with what they need, or why there are none. */
export const pythonFrameworks = (): ModelClient | string =>
  pythonClient({ lock: 'frameworks', script: 'python/frameworks.py' });

/** The package `ollama` for Node.js, or why there is none. */
export const nodeOllama = (): ModelClient | string =>
  nodeClient({ lock: 'ollama-node', script: 'ollama.mjs' });

/** Compiled packages for a guest, as a directory for PYTHONPATH, or why there are none: what its image has is left out. */
export const guestPackages = (): { readonly packages: string } | string =>
  orReason(() => {
    const lock = join(MODEL_CLIENTS_DIR, 'python/guest.lock');
    const { python } = lockedPython('guest-clients-python', lock);
    const packages = join(dirname(python), '../lib/python3.11/site-packages');
    // Emulated, it would take minutes. Files that were compiled in an earlier run stay.
    execFileSync(python, ['-m', 'compileall', '-q', '-j', '2', packages]);
    return { packages };
  });

/** Directories of `guest-node`, and the lock file whose packages lie beside each. */
const GUEST_NODE = { openai: 'node-openai', anthropic: 'node', ai: 'node-ai' };

/** A directory with Node.js (`bin/node`), its clients and `main.mjs`, whose links `tar -h` follows, or why there is none. */
export const guestNode = (): { readonly root: string } | string =>
  orReason(() => {
    const source = join(MODEL_CLIENTS_DIR, 'guest-node');
    const packages = Object.entries(GUEST_NODE).map(([name, lock]) => {
      const dir = lockedNode(`model-clients-${lock}`, join(MODEL_CLIENTS_DIR, lock));
      return [name, join(dir, 'node_modules')] as const;
    });
    const root = mkdtempSync(join(tmpdir(), 'nv-guest-node-'));
    mkdirSync(join(root, 'bin'));
    symlinkSync(process.execPath, join(root, 'bin/node'));
    symlinkSync(join(source, 'main.mjs'), join(root, 'main.mjs'));
    for (const [name, dir] of packages) {
      mkdirSync(join(root, name));
      symlinkSync(dir, join(root, name, 'node_modules'));
      symlinkSync(join(source, name, 'clients.mjs'), join(root, name, 'clients.mjs'));
    }
    return { root };
  });

/** @param lock name of the lock file */
const pythonClient = (client: {
  readonly lock: string;
  readonly script: string;
}): ModelClient | string =>
  orReason(() => {
    const lock = join(MODEL_CLIENTS_DIR, `python/${client.lock}.lock`);
    const { python } = lockedPython(`${client.lock}-clients-python`, lock);
    return { program: python, args: [join(MODEL_CLIENTS_DIR, client.script)] };
  });

/** @param lock directory of the lock file */
const nodeClient = (client: {
  readonly lock: string;
  readonly script: string;
}): ModelClient | string =>
  orReason(() => {
    const { lock } = client;
    const script = join(MODEL_CLIENTS_DIR, client.script);
    const dir = lockedNode(`model-clients-${lock}`, join(MODEL_CLIENTS_DIR, lock));
    // The script lies elsewhere, and `import` looks only beside it.
    const hook = `import { registerHooks } from 'node:module'; import { pathToFileURL } from 'node:url';
      const parentURL = pathToFileURL(${JSON.stringify(join(dir, 'main.js'))}).href;
      const script = pathToFileURL(${JSON.stringify(script)}).href;
      registerHooks({ resolve: (name, context, next) =>
        next(name, context.parentURL === script ? { ...context, parentURL } : context) });`;
    const args = ['--import', `data:text/javascript,${encodeURIComponent(hook)}`, script];
    return { program: process.execPath, args };
  });

/** An agent of `examples/dialects` with its dialect's client, or why there is none. */
export const dialectExample = (lock: 'anthropic' | 'openai' | 'ollama', name: string) =>
  pythonClient({ lock, script: `../../../examples/dialects/${name}` });

/** What a sandbox has. @param port of the bridge */
export const sandboxVariables = (port: number) => ({
  PATH: process.env['PATH'],
  ANTHROPIC_BASE_URL: `http://127.0.0.1:${port}`,
  ANTHROPIC_API_KEY: 'neurovisor',
  OLLAMA_HOST: `http://127.0.0.1:${port}`,
  OPENAI_BASE_URL: `http://127.0.0.1:${port}/v1`,
  OPENAI_API_KEY: 'neurovisor',
  NEUROVISOR_MODEL: 'm1',
});

/** Runs one scenario. @returns the JSON that it prints; @throws if it fails or warns */
export async function runScenario(
  client: ModelClient,
  port: number,
  scenario: string,
): Promise<unknown> {
  return JSON.parse(await runClient(client, port, [scenario]));
}

/** @returns what it prints; @throws if it fails or warns */
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
