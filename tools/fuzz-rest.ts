/**
 * schemathesis on the REST interface; see test/clients/api-fuzz.test.ts. Without `--url`, on a server with fake VMs:
 *
 *     node tools/fuzz-rest.ts [--time 10m] [--seed S] [--url http://127.0.0.1:PORT]
 *
 * A daemon needs its key in `NEUROVISOR_API_KEY`; it is tested with small, short-lived sandboxes. Prints the
 * report and exits with status 1 if something was found.
 */
import { parseArgs } from 'node:util';
import { describeError } from '../src/base/errors.ts';
import { parseDuration } from '../src/cli/flags/options.ts';
import { pythonPackages } from '../test/support/api-generators.ts';
import { fuzzRest } from '../test/support/fuzz-rest.ts';
import { openRestWorld } from '../test/support/rest-world.ts';
import { runSeed } from '../test/support/run-seed.ts';

const { values } = parseArgs({
  options: { time: { type: 'string', default: '10m' }, seed: { type: 'string' }, url: { type: 'string' } },
});
if (values.seed !== undefined) process.env['NEUROVISOR_SEED'] = values.seed;
const seed = runSeed();
try {
  const packages = pythonPackages();
  if (typeof packages === 'string') throw new Error(packages);
  const seconds = Math.ceil(parseDuration(values.time) / 1000);
  console.log(`schemathesis for ${values.time} from seed ${seed}`);
  const { url } = values;
  await using own = url === undefined ? await openRestWorld() : null;
  const at = own ?? { url: url ?? '', key: process.env['NEUROVISOR_API_KEY'] ?? '', errors: [] };
  const size = own === null ? 'small' : 'any';
  const { status, report } = await fuzzRest(packages, { ...at, seconds, seed, size });
  console.log(report);
  for (const error of at.errors) console.error(error);
  if (status !== 0 || at.errors.length > 0) process.exitCode = 1;
} catch (error) {
  console.error(describeError(error));
  process.exitCode = 1;
}
