/**
 * How long sandboxes can't be reached when their daemon is killed, reloaded, or stopped and started.
 *
 *     node tools/outage.ts [--sandboxes 1,8,32] [--times 5] [-o json]
 *
 * For each cause: until a daemon answers, and until a program has run in each sandbox. A program that counts in each must
 * have gone on; else it exits with status 1. Needs no model.
 */
import { parseArgs } from 'node:util';
import { connectDaemon, type RemoteControlPlane } from '../src/api/client/client.ts';
import { sleep } from '../src/base/clock.ts';
import { daemonSocket, resolveHome } from '../src/base/home.ts';
import { ignore } from '../src/base/ignore.ts';
import { median } from '../src/base/statistics.ts';
import { collect } from '../src/cli/library/collect.ts';
import { type DaemonProcess, daemonOf, openDaemonHome } from '../test/support/daemon.ts';

const { values } = parseArgs({
  options: {
    sandboxes: { type: 'string', default: '1,8,32' },
    times: { type: 'string', default: '5' },
    output: { type: 'string', short: 'o', default: 'text' },
  },
});

await using home = await openDaemonHome();
const launch = async (): Promise<DaemonProcess> => {
  const launcher = home.launched('-o', 'json', '--pool', '0', '--on-stop', 'pause');
  await launcher.ready();
  return launcher;
};
let launcher = await launch();
const connect = () => connectDaemon({ socketPath: daemonSocket(resolveHome(home.dir)) });

async function until<T>(body: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await body();
    } catch (error) {
      ignore(error, 'it is not there yet');
      await sleep(20);
    }
  }
}

async function countOf(control: RemoteControlPlane, id: string): Promise<number> {
  const guest = await control.guest(id);
  const { stdout } = await collect((base) => guest.exec({ ...base, argv: ['cat', 'n'] }), {});
  return Number(stdout);
}

const CAUSES: Readonly<Record<string, () => Promise<void>>> = {
  'kill -9': async () => void process.kill(daemonOf(launcher.pid) ?? 0, 'SIGKILL'),
  reload: async () => launcher.kill('SIGHUP'),
  'stop and start': async () => {
    launcher.kill('SIGTERM');
    await launcher.ended;
    launcher = await launch();
  },
};

const rows: object[] = [];
for (const count of values.sandboxes.split(',').map(Number)) {
  const first = await connect();
  const ids: string[] = [];
  for (let n = 0; n < count; n += 1) ids.push((await first.create({ timeoutMs: 3_600_000 })).id);
  for (const id of ids) {
    const argv = ['sh', '-c', 'i=0; while :; do i=$((i + 1)); echo $i > n; sleep 1; done'];
    await (await first.guest(id)).exec({ argv, detached: true });
  }
  await first[Symbol.asyncDispose]();
  let last = ids.map(() => 0);
  for (const [cause, happen] of Object.entries(CAUSES)) {
    const answersMs: number[] = [];
    const allMs: number[] = [];
    for (let n = 0; n < Number(values.times); n += 1) {
      // A daemon that is killed again within a minute is started later each time.
      await sleep(cause === 'kill -9' ? 61_000 : 2000);
      const began = performance.now();
      const old = daemonOf(launcher.pid);
      const happening = happen();
      await until(async () => {
        if (daemonOf(launcher.pid) === old) throw new Error('still the old one');
      });
      await happening;
      const control = await until(connect);
      answersMs.push(performance.now() - began);
      const counts = await Promise.all(ids.map((id) => until(() => countOf(control, id))));
      allMs.push(performance.now() - began);
      if (counts.some((one, at) => !(one > (last[at] ?? 0)))) throw new Error(`counted ${last}, then ${counts}`);
      last = counts;
      await control[Symbol.asyncDispose]();
    }
    const row = {
      cause,
      sandboxes: count,
      n: answersMs.length,
      answersMs: Math.round(median(answersMs) ?? 0),
      allMs: Math.round(median(allMs) ?? 0),
    };
    rows.push(row);
    if (values.output !== 'json')
      console.log(
        `${cause}, ${count} sandboxes: a daemon after ${row.answersMs} ms, all after ${row.allMs} ms (medians of ${row.n})`,
      );
  }
  await using control = await connect();
  for (const id of ids) await control.remove(id);
}
launcher.kill('SIGTERM');
await launcher.ended;
if (values.output === 'json') console.log(JSON.stringify(rows, null, 2));
