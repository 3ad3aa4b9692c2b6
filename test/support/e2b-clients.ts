/**
 * E2B's unmodified clients, the newest and the previous generation (whose requests differ), pinned by lock files in
 * `test/fixtures/clients`. Scripts run as processes with only E2B's environment variables.
 */
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import {
  type ClientVersion,
  clientsForNode,
  clientsForPython,
  orReason,
  type PythonPackages,
} from './locked-packages.ts';

export const E2B_CLIENTS_DIR = join(import.meta.dirname, '../fixtures/e2b-clients');
const RUN_MS_MAX = 300_000;
const OUTPUT_BYTES_MAX = 16 * 1024 * 1024;

export const CLIENT_VERSIONS: readonly ClientVersion[] = ['newest', '2.45'];

export interface E2bClient {
  readonly language: 'node' | 'python';
  readonly version: ClientVersion;
  /** The interpreter; `args` come before the script. */
  readonly program: string;
  readonly args: readonly string[];
  /** Environment with which scripts find the packages. */
  readonly env: Readonly<Record<string, string>>;
  readonly packages: string;
}

/**
 * For Python: E2B's packages, and with the newest the frameworks for agents that use them; or the reason why there are
 * none.
 */
export const pythonClient = (version: ClientVersion): E2bClient | string =>
  orReason(() => pythonWith(version, clientsForPython(version)));

/** The same for Node.js. */
export const nodeClient = (version: ClientVersion): E2bClient | string =>
  orReason(() => nodeWith(version, clientsForNode(version)));

/**
 * Runs a script, and exits without finalizing Python: threads of 2.45's HTTP library may still be at work then, and
 * abort it ("PyGILState_Release: thread state must be current when releasing").
 */
const PYTHON_SCRIPT = `import os, runpy, sys
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
sys.stdout.flush()
os._exit(0)`;

function pythonWith(version: ClientVersion, { python, env }: PythonPackages): E2bClient {
  const packages = join(dirname(python), '../lib/python3.11/site-packages');
  return { language: 'python', version, program: python, args: ['-c', PYTHON_SCRIPT], env, packages };
}

const nodeWith = (version: ClientVersion, dir: string): E2bClient => ({
  language: 'node',
  version,
  program: process.execPath,
  args: seeing(dir),
  env: {},
  packages: join(dir, 'node_modules'),
});

/**
 * Options with which a script finds the packages of a directory. `import` looks only beside the script, which is
 * elsewhere.
 */
function seeing(dir: string): string[] {
  const { dependencies } = JSON.parse(readFileSync(join(dir, 'package.json'), 'utf8')) as {
    readonly dependencies: Readonly<Record<string, string>>;
  };
  const hook = `import { registerHooks } from 'node:module'; import { pathToFileURL } from 'node:url';
    const parentURL = pathToFileURL(${JSON.stringify(join(dir, 'main.js'))}).href;
    const names = new Set(${JSON.stringify(Object.keys(dependencies))});
    registerHooks({ resolve: (name, context, next) =>
      names.has(name) ? next(name, { ...context, parentURL }) : next(name, context) });`;
  return ['--import', `data:text/javascript,${encodeURIComponent(hook)}`];
}

export interface ScriptResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/**
 * Runs a script with the client against a server. Resolves also if the script fails.
 * @param more variables besides E2B's
 */
export async function runWithClient(
  client: E2bClient,
  server: { readonly url: string; readonly apiKey: string },
  script: string,
  args: readonly string[] = [],
  more: Readonly<Record<string, string>> = {},
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
    ...more,
  };
  const options = { env, timeout: RUN_MS_MAX, maxBuffer: OUTPUT_BYTES_MAX };
  return await new Promise((resolve) => {
    execFile(client.program, [...client.args, script, ...args], options, (error, stdout, stderr) => {
      const code = error === null ? 0 : typeof error.code === 'number' ? error.code : -1;
      resolve({ code, stdout, stderr });
    });
  });
}
