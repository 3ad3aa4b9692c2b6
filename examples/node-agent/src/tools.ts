/** The tools of the agent: plain functions, with the schema that the model sees. */
import type { ChatCompletionFunctionTool } from 'openai/resources/chat/completions';

const LIMIT = 20_000_000;

export const tools: ChatCompletionFunctionTool[] = [
  {
    type: 'function',
    function: {
      name: 'count_primes',
      description: 'Count the prime numbers below a number.',
      parameters: {
        type: 'object',
        properties: { below: { type: 'integer', description: 'the number' } },
        required: ['below'],
      },
    },
  },
];

/** Errors are results, too: the model reads them and may try again. */
export function runTool(name: string, json: string): string {
  try {
    const { below } = JSON.parse(json) as { below?: unknown };
    if (name !== 'count_primes') return `error: there is no tool ${name}`;
    return JSON.stringify({ below, primes: countPrimes(Number(below)) });
  } catch (error) {
    return `error: ${error}`;
  }
}

function countPrimes(below: number): number {
  if (!Number.isInteger(below) || below > LIMIT) {
    throw new Error(`below must be an integer up to ${LIMIT}`);
  }
  const composite = new Uint8Array(Math.max(below, 2));
  let count = 0;
  for (let n = 2; n < below; n += 1) {
    if (composite[n]) continue;
    count += 1;
    for (let multiple = n * n; multiple < below; multiple += n) composite[multiple] = 1;
  }
  return count;
}
