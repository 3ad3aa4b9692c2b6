/** Runs schemathesis on a server of the REST interface. */
import { spawn } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { OPENAPI_FILE } from '../../tools/openapi.ts';
import { CLIENTS_DIR } from './api-generators.ts';
import type { PythonPackages } from './locked-packages.ts';

export interface FuzzOptions {
  readonly url: string;
  readonly key: string;
  /** Total time of all phases; fuzzing and sequences continue until then. */
  readonly seconds: number;
  readonly seed: number;
  /** Default: our own interface. */
  readonly document?: string;
  /** `small`: for real VMs, few resources for a minute at most. Default `any`. */
  readonly size?: 'any' | 'small';
}

/** Operations that respond for as long as the client stays or their work goes on, or by an upgrade. */
const STREAMS = [
  ...['streamEvents', 'streamSandboxEvents', 'streamLogs', 'openPort', 'openOperation', 'openSession'],
  ...['streamAudit', 'pullImage', 'buildImage', 'pullModel', 'pullTemplate', 'importTemplate', 'createTemplate'],
];
/** Time until a request counts as unanswered: for fake VMs, and for a host that first builds a template. */
const ANSWER_SECONDS_MAX = 30;
const BUILD_SECONDS_MAX = 150;
/** Console scripts of the environment contain another path. */
const MAIN = 'from schemathesis.cli import schemathesis; schemathesis()';

/** @returns the exit status, 0 if nothing was found; and the output */
export async function fuzzRest(
  { python, env }: PythonPackages,
  { url, key, seconds, seed, size = 'any', document = OPENAPI_FILE }: FuzzOptions,
): Promise<{ readonly status: number | null; readonly report: string }> {
  const isOwn = document === OPENAPI_FILE;
  const streams = isOwn ? STREAMS : [];
  // In E2B's interface an ended sandbox is unknown, even if an `Idempotency-Key` returns it.
  const excluded = isOwn ? [] : ['--exclude-checks', 'ensure_resource_availability'];
  const args = [
    ...['-c', MAIN, 'run', document, '--url', url, '-H', `X-API-Key: ${key}`, '--no-color'],
    ...['--max-time', String(seconds), '--seed', String(seed)],
    ...['--request-timeout', String(size === 'small' ? BUILD_SECONDS_MAX : ANSWER_SECONDS_MAX)],
    ...excluded,
    ...streams.flatMap((operation) => ['--exclude-operation-id', operation]),
  ];
  // Schemathesis writes files into its working directory.
  const cwd = mkdtempSync(join(tmpdir(), 'nv-fuzz-rest-'));
  for (const name of ['hooks.py', 'schemathesis.toml']) {
    cpSync(join(CLIENTS_DIR, 'python', name), join(cwd, name));
  }
  const child = spawn(python, args, {
    cwd,
    env: { ...process.env, ...env, SCHEMATHESIS_HOOKS: 'hooks', SANDBOX_SIZE: size },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  try {
    const [report, status] = await Promise.all([text(child.stdout), ended]);
    return { status, report };
  } finally {
    rmSync(cwd, { recursive: true, force: true });
  }
}
