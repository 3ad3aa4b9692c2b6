import type { Guest } from '../src/machine/guest/guest.ts';
import type { Process } from '../src/machine/guest/link.ts';

export const PRINT_ONE = { code: 'print(1)', output: '1\n' } as const;

/** Measures the milliseconds until the first byte of `output`. @throws if the program prints anything else */
export async function firstOutputMs(begin: () => Promise<Process>, output: string): Promise<number> {
  const began = performance.now();
  const process = await begin();
  let first: number | undefined;
  let text = '';
  process.stderr.resume();
  for await (const chunk of process.stdout) {
    first ??= performance.now();
    text += chunk;
  }
  const exit = await process.exit;
  if (first === undefined || text !== output) {
    throw new Error(`the script printed ${JSON.stringify(text)} and ended ${exit.exitCode}`);
  }
  return first - began;
}

export function printOneMs(guest: Guest, signal: AbortSignal): Promise<number> {
  const script = { code: PRINT_ONE.code };
  return firstOutputMs(() => guest.python({ script, stdin: false }, signal), PRINT_ONE.output);
}
