/** The polite sandbox of the neighbors proof: measures its service from another process (I/O). */
import { request } from 'node:http';
import { sleep } from '../src/base/clock.ts';
import { askName } from './caller.ts';

export interface ProbePlan {
  /** A unix socket of the host process that answers GET /v1/health. */
  readonly healthPath: string;
  readonly bridgePath: string;
  readonly resolver: string;
  readonly name: string;
  readonly rounds: number;
  /** Pause between rounds: a sandbox may resolve 20 names per second. */
  readonly gapMs: number;
}

/** Milliseconds of each round; no answer counts as `NO_ANSWER_MS`. */
export interface ProbeTimes {
  readonly health: readonly number[];
  readonly names: readonly number[];
  readonly models: readonly number[];
  readonly failures: readonly string[];
}

export const NO_ANSWER_MS = 60_000;
/** Like a prompt with some files; larger than what is checked on the event loop. */
const PROMPT_CHARACTERS = 100_000;
/** Rounds between two requests to the model. */
const MODEL_EVERY = 5;

export async function probe(plan: ProbePlan): Promise<ProbeTimes> {
  const times = { health: [] as number[], names: [] as number[], models: [] as number[] };
  const failures: string[] = [];
  const take = async (into: number[], what: string, run: () => Promise<string>): Promise<void> => {
    const began = performance.now();
    const outcome = await run();
    into.push(outcome === '' ? performance.now() - began : NO_ANSWER_MS);
    if (outcome !== '') failures.push(`${what}: ${outcome}`);
  };
  const prompt = JSON.stringify({
    model: 'known',
    messages: [{ role: 'user', content: 'x'.repeat(PROMPT_CHARACTERS) }],
  });
  for (let round = 0; round < plan.rounds; round += 1) {
    await take(times.health, 'health', () => call(plan.healthPath, 'GET', '/v1/health'));
    await take(times.names, 'name', async () => {
      const { name, resolver: server } = plan;
      const { outcome, code } = await askName({ server, name, type: 1, transport: 'udp' });
      return outcome === 'answer' && code === 0 ? '' : `${outcome} ${code}`;
    });
    if (round % MODEL_EVERY === 0)
      await take(times.models, 'model', () => call(plan.bridgePath, 'POST', '/v1/chat/completions', prompt));
    await sleep(plan.gapMs);
  }
  return { ...times, failures: failures.slice(0, 10) };
}

/** @returns the failure; empty for status 200 */
function call(socketPath: string, method: string, path: string, body?: string): Promise<string> {
  return new Promise((resolve) => {
    const asked = request({ socketPath, method, path, agent: false });
    asked.setTimeout(NO_ANSWER_MS, () => asked.destroy(new Error('no answer')));
    asked.once('error', (error) => resolve(error.message));
    asked.once('response', (response) => {
      response.resume();
      response.once('end', () => resolve(response.statusCode === 200 ? '' : `status ${response.statusCode}`));
    });
    asked.end(body);
  });
}
