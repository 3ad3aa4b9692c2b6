/**
 * E2B's unmodified clients, newest and of the generation before (whose requests differ), pinned by lock files in
 * `test/fixtures/e2b-clients`. Scripts run as processes with only E2B's environment variables.
 */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { lockedNode, lockedPython, orReason } from './locked-packages.ts';

export const E2B_CLIENTS_DIR = join(import.meta.dirname, '../fixtures/e2b-clients');
const RUN_MS_MAX = 300_000;
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;

export type ClientVersion = 'newest' | '2.45';
export const CLIENT_VERSIONS: readonly ClientVersion[] = ['newest', '2.45'];

export interface E2bClient {
  readonly language: 'node' | 'python';
  readonly version: ClientVersion;
  /** The interpreter; `args` come before the script. */
  readonly program: string;
  readonly args: readonly string[];
  /** Environment with which scripts find the packages. */
  readonly env: Readonly<Record<string, string>>;
}

/** Packages `e2b` and `e2b-code-interpreter` for Python, or why there are none. */
export const pythonClient = (version: ClientVersion): E2bClient | string =>
  orReason(() => {
    const lock = join(E2B_CLIENTS_DIR, 'python', `${version}.lock`);
    const { python, env } = lockedPython(`e2b-python-${version}`, lock);
    return { language: 'python', version, program: python, args: [], env };
  });

/** Packages `e2b` and `@e2b/code-interpreter` for Node.js, or why there are none. */
export const nodeClient = (version: ClientVersion): E2bClient | string =>
  orReason(() => {
    const dir = lockedNode(`e2b-node-${version}`, join(E2B_CLIENTS_DIR, 'node', version));
    // Scripts lie elsewhere, and `import` looks only beside the script.
    const hook = `import { registerHooks } from 'node:module'; import { pathToFileURL } from 'node:url';
      const parentURL = pathToFileURL(${JSON.stringify(join(dir, 'main.js'))}).href;
      registerHooks({ resolve: (name, context, next) =>
        /^(e2b|@e2b\\/code-interpreter)$/.test(name) ? next(name, { ...context, parentURL }) : next(name, context) });`;
    const args = ['--import', `data:text/javascript,${encodeURIComponent(hook)}`];
    return { language: 'node', version, program: process.execPath, args, env: {} };
  });

export interface ScriptResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a script with the client against a server. Resolves also if the script fails. */
export async function runWithClient(
  client: E2bClient,
  server: { readonly url: string; readonly apiKey: string },
  script: string,
  args: readonly string[] = [],
): Promise<ScriptResult> {
  const env = {
    PATH: process.env['PATH'],
    HOME: process.env['HOME'],
    PYTHONUNBUFFERED: '1',
    PYTHONDONTWRITEBYTECODE: '1',
    ...client.env,
    E2B_API_KEY: server.apiKey,
    E2B_API_URL: server.url,
    E2B_SANDBOX_URL: server.url,
  };
  const options = { env, timeout: RUN_MS_MAX, maxBuffer: OUTPUT_BYTES_MAX };
  return await new Promise((resolve) => {
    execFile(
      client.program,
      [...client.args, script, ...args],
      options,
      (error, stdout, stderr) => {
        const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
        resolve({ code, stdout, stderr });
      },
    );
  });
}
