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
  /** Of all phases together; fuzzing and sequences go on until then. */
  readonly seconds: number;
  readonly seed: number;
  /** Default: our own interface. */
  readonly document?: string;
  /** `small`: for real VMs, few resources for a minute at most. Default `any`. */
  readonly size?: 'any' | 'small';
}

/** They answer for as long as the client stays, or by an upgrade. */
const STREAMS = ['streamEvents', 'streamSandboxEvents', 'streamLogs', 'openPort', 'openOperation', 'openSession'];
/** Until a request counts as unanswered: of fake VMs, and of a host that builds a template for it first. */
const ANSWER_SECONDS_MAX = 30;
const BUILD_SECONDS_MAX = 150;
/** Console scripts of the environment have another path in them. */
const MAIN = 'from schemathesis.cli import schemathesis; schemathesis()';

/** @returns the exit status, 0: nothing found; what it printed */
export async function fuzzRest(
  { python, env }: PythonPackages,
  { url, key, seconds, seed, size = 'any', document = OPENAPI_FILE }: FuzzOptions,
): Promise<{ readonly status: number | null; readonly report: string }> {
  const isOwn = document === OPENAPI_FILE;
  const streams = isOwn ? STREAMS : [];
  // At E2B an ended sandbox is unknown, also one that an `Idempotency-Key` answers with.
  const excluded = isOwn ? [] : ['--exclude-checks', 'ensure_resource_availability'];
  const args = [
    ...['-c', MAIN, 'run', document, '--url', url, '-H', `X-API-Key: ${key}`, '--no-color'],
    ...['--max-time', String(seconds), '--seed', String(seed)],
    ...['--request-timeout', String(size === 'small' ? BUILD_SECONDS_MAX : ANSWER_SECONDS_MAX)],
    ...excluded,
    ...streams.flatMap((operation) => ['--exclude-operation-id', operation]),
  ];
  // It keeps files where it runs.
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
