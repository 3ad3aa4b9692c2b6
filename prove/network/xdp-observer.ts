/** Measures a TAP until it is killed. Arguments: link index, object directory. Prints `ready`. */
import { openLatencyProbes } from '../../src/machine/observe/probes.ts';

const [linkIndex = '', dir = ''] = process.argv.slice(2);
const probes = await openLatencyProbes({ dir });
await probes.watchTap(Number(linkIndex));
process.stdout.write('ready\n');
process.stdin.resume().once('end', () => process.exit(0));
