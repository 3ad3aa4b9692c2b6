/**
 * Finds the processor that the engine would use, by loading llama.cpp in a child process as the engine does: a device
 * file says nothing about drivers, or about the packages with llama.cpp's backends (io).
 */
import { execFile } from 'node:child_process';
import { describeError } from '../../base/errors.ts';
import { modulePath } from '../../base/module-path.ts';
import type { ProcessorInfo } from './backend.ts';
import { EngineError, type EngineErrorCode } from './errors.ts';
import type { GpuChoice } from './load.ts';
import { engineEnvironment } from './process.ts';

export type ProcessorAnswer =
  | ({ readonly ok: true } & ProcessorInfo)
  | { readonly ok: false; readonly code: EngineErrorCode; readonly message: string; readonly remedy: string | null };

/** CUDA takes seconds to load on a machine with several devices. */
const TIMEOUT_MS = 60_000;
const ANSWER_BYTES_MAX = 64 * 1024;

/**
 * @param child file of the child process, for tests
 * @throws EngineError `engine_missing`, `gpu_unavailable`, `engine_crashed`
 */
export async function findProcessor(
  choice: GpuChoice,
  child = modulePath('./processor-child.ts', import.meta.url),
): Promise<ProcessorInfo> {
  const answer = parse(await run([child, choice]));
  if (answer.ok) return { gpu: answer.gpu, device: answer.device };
  const { code, message, remedy } = answer;
  throw new EngineError(code, message, remedy === null ? {} : { remedy });
}

function run(args: readonly string[]): Promise<string> {
  const options = {
    env: engineEnvironment(),
    timeout: TIMEOUT_MS,
    killSignal: 'SIGKILL',
    maxBuffer: ANSWER_BYTES_MAX,
  } as const;
  const argv = ['--disable-warning=ExperimentalWarning', ...args];
  return new Promise((resolve, reject) => {
    execFile(process.execPath, argv, options, (error, stdout) => {
      if (error === null) resolve(stdout);
      else reject(crashed(error.signal ?? `exit status ${error.code}`, error));
    });
  });
}

/** Ignores lines that llama.cpp itself prints. */
function parse(stdout: string): ProcessorAnswer {
  const line = stdout.split('\n').findLast((text) => text.startsWith('{"ok":'));
  try {
    return JSON.parse(line ?? '') as ProcessorAnswer;
  } catch (error) {
    throw crashed('no answer', error);
  }
}

function crashed(how: string, cause: unknown): EngineError {
  return new EngineError('engine_crashed', `llama.cpp can't be loaded (${how})`, {
    cause: new Error(describeError(cause)),
    remedy: 'set NEUROVISOR_GPU=cpu, or use another model server',
  });
}
