/**
 * `node processor-child.ts CHOICE`, started by `processor.ts`. Loads llama.cpp as the engine does, prints the
 * processor that it uses as one JSON line, and exits (io).
 */
import { describeError } from '../../base/errors.ts';
import { toEngineError } from './errors.ts';
import { type GpuChoice, loadProcessor } from './load.ts';
import type { ProcessorAnswer } from './processor.ts';

async function answer(choice: GpuChoice): Promise<ProcessorAnswer> {
  try {
    return { ok: true, ...(await loadProcessor(choice)) };
  } catch (error) {
    const failure = toEngineError(error);
    const { code, remedy = null } = failure;
    return { ok: false, code, message: describeError(failure), remedy };
  }
}

const found = await answer((process.argv[2] ?? 'auto') as GpuChoice);
// Exits explicitly, since native threads may keep the process alive.
process.stdout.write(`${JSON.stringify(found)}\n`, () => process.exit(0));
