/**
 * Fuzzes the guest's agent, which is Python, with Atheris (libFuzzer): fetched from PyPI, pinned by digest, into the
 * home's cache. One process per target.
 */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { PACKAGE_DIR } from '../../src/base/package-dir.ts';
import { findPython } from '../../test/support/locked-packages.ts';
import type { CampaignOptions, CampaignResult, Found } from './campaign.ts';
import type { Progress } from './messages.ts';

/** Functions of `guest/tests/fuzz_targets.py`. */
export const AGENT_TARGETS = [
  'agent-accounts',
  'agent-fork-server',
  'agent-json',
  'agent-kernel',
  'agent-messages',
  'agent-wire',
];
/** A planted bug in Python. */
export const AGENT_CANARY = 'agent-canary';

const TESTS = join(PACKAGE_DIR, 'guest/tests');
const LOCK = join(TESTS, 'fuzz.lock');
/** The same limits as for the threads. */
const LIMITS = ['-timeout=30', '-rss_limit_mb=1024', '-max_len=4096'];
const OUTPUT_CHARACTERS_MAX = 8_000;
const PROGRESS = /^#(\d+)\s+\w+\s+cov: (\d+) ft: (\d+) corp: (\d+)\/(\d+)(b|Kb|Mb)/gm;
const UNIT_BYTES = { b: 1, Kb: 1024, Mb: 1024 * 1024 } as const;

export interface AgentOptions extends CampaignOptions {
  readonly cacheDir: string;
}

export async function runAgentCampaign(options: AgentOptions): Promise<CampaignResult> {
  const atheris = await fetchAtheris(options.cacheDir);
  const dir = await mkdtemp(join(tmpdir(), 'nv-fuzz-agent-'));
  const [inputs, failures] = [join(dir, 'inputs'), join(dir, 'failures')];
  try {
    for (const each of [inputs, failures]) await mkdir(each);
    for (const bytes of options.inputs) await writeFile(join(inputs, randomUUID()), bytes);
    const startMs = performance.now();
    let progress: Progress = { executions: 0, ms: 0, inputs: 0, bytes: 0, features: 0, branches: 0 };
    const output = await run(atheris, inputs, failures, options, (text) => {
      progress = progressOf(text, performance.now() - startMs) ?? progress;
      options.onProgress?.(progress);
    });
    const [file] = await readdir(failures);
    const found = file === undefined ? undefined : await foundIn(join(failures, file), output);
    const left = await Promise.all((await readdir(inputs)).map((name) => readFile(join(inputs, name))));
    return { progress, found, inputs: left };
  } finally {
    await rm(dir, { recursive: true });
  }
}

/** @throws if there is no Python for it, PyPI is out of reach, or the digest differs */
export async function fetchAtheris(cacheDir: string): Promise<string> {
  const lock = await readFile(LOCK, 'utf8');
  const version = /^atheris==(\S+)/m.exec(lock)?.[1] ?? '';
  const dir = join(cacheDir, 'fuzz', `atheris-${version}`);
  if (existsSync(dir)) return dir;
  await mkdir(join(cacheDir, 'fuzz'), { recursive: true });
  const made = `${dir}.${randomUUID()}`;
  const pip = ['-m', 'pip', 'install', '--no-deps', '--require-hashes', '--only-binary=:all:'];
  const quiet = ['--no-input', '--disable-pip-version-check', '-q', '--target', made, '-r', LOCK];
  const { status, output } = await started([findPython(), ...pip, ...quiet], {});
  if (status !== 0) throw new Error(`pip could not install Atheris: ${output}`);
  try {
    await rename(made, dir);
  } catch (error) {
    // Another run may have been faster.
    await rm(made, { recursive: true });
    if (!existsSync(dir)) throw error;
  }
  return dir;
}

async function run(
  atheris: string,
  inputs: string,
  failures: string,
  options: AgentOptions,
  onOutput: (text: string) => void,
): Promise<string> {
  const { name, seed, timeMs, runs = Infinity, signal } = options;
  const function_ = name === AGENT_CANARY ? 'canary' : name;
  const argv = [
    ...[findPython(), join(TESTS, 'fuzz.py'), function_, inputs, ...LIMITS],
    ...[`-seed=${(seed % (2 ** 31 - 2)) + 1}`, `-artifact_prefix=${failures}/`],
    ...(timeMs === Infinity ? [] : [`-max_total_time=${Math.max(1, Math.round(timeMs / 1000))}`]),
    ...(runs === Infinity ? [] : [`-runs=${runs}`]),
  ];
  const { status, output } = await started(argv, { PYTHONPATH: atheris }, { onOutput, signal });
  const hasFailed = (await readdir(failures)).length > 0;
  if (status !== 0 && !hasFailed && !signal.aborted) throw new Error(`Atheris ended with status ${status}: ${output}`);
  return output;
}

function started(
  [file = '', ...args]: readonly string[],
  env: Readonly<Record<string, string>>,
  { onOutput, signal }: { readonly onOutput?: (text: string) => void; readonly signal?: AbortSignal } = {},
): Promise<{ readonly status: number | null; readonly output: string }> {
  return new Promise((resolve, reject) => {
    const all = { ...process.env, PYTHONDONTWRITEBYTECODE: '1', ...env };
    const child = spawn(file, args, { env: all, stdio: ['ignore', 'pipe', 'pipe'] });
    const stop = (): void => void child.kill('SIGINT');
    signal?.addEventListener('abort', stop, { once: true });
    if (signal?.aborted === true) stop();
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output = (output + text).slice(-OUTPUT_CHARACTERS_MAX);
        onOutput?.(output);
      });
    }
    child.on('error', reject);
    child.on('close', (status) => {
      signal?.removeEventListener('abort', stop);
      resolve({ status, output });
    });
  });
}

/** Parses libFuzzer's last report. */
export function progressOf(output: string, ms: number): Progress | undefined {
  const match = [...output.matchAll(PROGRESS)].at(-1);
  if (match === undefined) return undefined;
  const [executions = 0, branches = 0, features = 0, inputs = 0, size = 0] = match.slice(1, 6).map(Number);
  const unit = UNIT_BYTES[match[6] as keyof typeof UNIT_BYTES];
  return { executions, ms, inputs, bytes: size * unit, features, branches };
}

async function foundIn(path: string, output: string): Promise<Found> {
  const bytes = await readFile(path);
  const start = output.indexOf('=== Uncaught Python exception');
  const reason = output.slice(Math.max(0, start), output.indexOf('\nMS:', start));
  return { bytes, reason, meaning: JSON.stringify(bytes.toString('latin1')) };
}
