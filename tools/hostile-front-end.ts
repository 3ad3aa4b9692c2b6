/**
 * Malicious front ends against the real vsock devices; see test/support/hostile-front-ends.ts.
 *
 *     node tools/hostile-front-end.ts [--time 10m] [--seed S]
 *
 * Prints the results and exits with status 1 after a fault.
 */
import { parseArgs } from 'node:util';
import { describeError } from '../src/base/errors.ts';
import { parseDuration } from '../src/cli/flags/options.ts';
import { runHostileFrontEnds } from '../test/support/hostile-front-ends.ts';
import { runSeed } from '../test/support/run-seed.ts';

const { values } = parseArgs({ options: { time: { type: 'string', default: '1m' }, seed: { type: 'string' } } });
if (values.seed !== undefined) process.env['NEUROVISOR_SEED'] = values.seed;
const seed = runSeed();
try {
  const ms = parseDuration(values.time);
  console.log(`hostile front ends for ${values.time} from seed ${seed}`);
  const { sessions, ends, connections, bytes, echoMs, growthBytes } = await runHostileFrontEnds({ seed, ms });
  const at = (share: number): string =>
    (echoMs[Math.min(echoMs.length - 1, Math.floor(echoMs.length * share))] ?? 0).toFixed(1);
  for (const [end, count] of [...ends].toSorted((a, b) => b[1] - a[1])) console.log(String(count).padStart(7), end);
  console.log(`${connections} connections, ${bytes >> 10} KiB carried`);
  console.log(`${sessions} sessions, no fault; the process grew by ${growthBytes >> 10} KiB`);
  console.log(`polite echo: p50 ${at(0.5)} ms, p95 ${at(0.95)} ms, longest ${at(1)} ms (n ${echoMs.length})`);
} catch (error) {
  console.error(describeError(error));
  process.exitCode = 1;
}
