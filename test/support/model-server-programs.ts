/** Programs of real model servers, kept in the home's cache. They compute only on the CPU. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { lockedPython, orReason } from './locked-packages.ts';
import { findModel } from './model.ts';
import { testCacheDir } from './wheel.ts';

const FIXTURES = join(import.meta.dirname, '../fixtures/model-servers');
const LLAMA_SERVER = join(FIXTURES, 'llama_server.py');
const GO_MODULE = join(FIXTURES, 'ollama');
const HEADERS = join(FIXTURES, 'headers.lock');
const OLLAMA = 'github.com/ollama/ollama';
/** As in `go.mod`. */
const OLLAMA_VERSION = '0.17.4';
/** Processors since 2013: without it, it computes several times slower. */
const MACHINE = '-O2 -march=x86-64-v3';
const BUILD_MS_MAX = 3_600_000;
const OUTPUT_BYTES_MAX = 64 << 20;

export interface ServerProgram {
  /** A GGUF file. */
  readonly model: string;
  readonly program: string;
  /** Arguments before others. */
  readonly args: readonly string[];
}

/** llama.cpp's server, or the reason why there is none. */
export function llamaServerProgram(): ServerProgram | string {
  const model = findModel();
  if (typeof model === 'string') return model;
  return orReason(() => {
    const { python } = lockedPython('llama-cpp', join(FIXTURES, 'llama-cpp.lock'));
    return { model: model.path, program: python, args: [LLAMA_SERVER] };
  });
}

/** Ollama, or the reason why there is none. Its first build takes ten minutes of CPU time. */
export async function ollamaProgram(): Promise<ServerProgram | string> {
  const model = findModel();
  if (typeof model === 'string') return model;
  try {
    const headers = await kept('headers', [HEADERS], fetchHeaders);
    const locks = ['go.mod', 'go.sum'].map((name) => join(GO_MODULE, name));
    const dir = await kept('ollama', [...locks, HEADERS], (target) => buildOllama(target, headers));
    return { model: model.path, program: join(dir, 'ollama'), args: [] };
  } catch (error) {
    return error instanceof Error ? error.message.split('\n', 1).join('') : String(error);
  }
}

async function fetchHeaders(target: string): Promise<void> {
  const pip = ['-m', 'pip', 'download', '--no-deps', '--require-hashes', '-q', '-d', target];
  const sources = ['--no-binary', 'llama-cpp-python', '--no-cache-dir', '--no-input'];
  await run('python3', [...pip, ...sources, '-r', HEADERS]);
  const archive = readdirSync(target).find((name) => name.endsWith('.tar.gz')) ?? '';
  const only = ['--strip-components=4', '--wildcards', '*/vendor/llama.cpp/vendor/*'];
  await run('tar', ['-xzf', join(target, archive), '-C', target, ...only]);
  rmSync(join(target, archive));
}

/** @param headers of other projects: Go modules have no folders named `vendor` */
async function buildOllama(target: string, headers: string): Promise<void> {
  const module = join(target, 'module');
  cpSync(GO_MODULE, module, { recursive: true });
  const env = { CGO_CFLAGS: MACHINE, CGO_CXXFLAGS: `${MACHINE} -I${headers}` };
  const version = `-X=${OLLAMA}/version.Version=${OLLAMA_VERSION}`;
  const output = ['-o', join(target, 'ollama')];
  const args = ['go', 'build', '-p', '2', `-ldflags=${version}`, ...output, OLLAMA];
  await run('nice', args, { cwd: module, env });
  rmSync(module, { recursive: true });
}

/** The folder that `make` has filled for these files, now or in an earlier run. */
async function kept(name: string, locks: readonly string[], make: (target: string) => Promise<void>): Promise<string> {
  const hash = createHash('sha256');
  for (const lock of locks) hash.update(readFileSync(lock));
  const cache = testCacheDir('test-model-servers');
  const dir = join(cache, `${name}-${hash.digest('hex').slice(0, 16)}`);
  if (existsSync(dir)) return dir;
  const beside = mkdtempSync(join(cache, 'build-'));
  try {
    await make(beside);
    renameSync(beside, dir);
  } finally {
    rmSync(beside, { recursive: true, force: true });
  }
  return dir;
}

const execute = promisify(execFile);

async function run(
  program: string,
  args: readonly string[],
  { cwd, env = {} }: { readonly cwd?: string; readonly env?: Record<string, string> } = {},
): Promise<void> {
  const limits = { timeout: BUILD_MS_MAX, maxBuffer: OUTPUT_BYTES_MAX };
  await execute(program, args, { cwd, env: { ...process.env, ...env }, ...limits });
}
