/** Why a step of a build failed: the error that its user sees, with the end of the output. */
import { DockerfileError, diskFull } from './errors.ts';
import { StepFault } from './stage-vm.ts';

export function faultOf(error: unknown, line: number | null, what: string): unknown {
  if (!(error instanceof StepFault)) return error;
  const { code, message: cause } = error;
  if (code === 'full') {
    const remedy = 'Give the build a larger disk: --disk';
    return new DockerfileError('step_failed', line, `${what}: the disk is full`, { cause, remedy });
  }
  if (code === 'disk') return diskFull(line, cause);
  return new DockerfileError('step_failed', line, what, { cause });
}

const TAIL_LINES = 20;

const TAIL_CHARACTERS = 4_000;

/** The last lines of a command. */
export class Tail {
  #text = '';

  add(chunk: Buffer): void {
    this.#text = (this.#text + chunk.toString('utf8')).slice(-TAIL_CHARACTERS);
  }

  text(): string {
    return this.#text.trimEnd().split('\n').slice(-TAIL_LINES).join('\n');
  }
}
