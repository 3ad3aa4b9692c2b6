/** How long before the guest's kernel kills a program the host is told that it is near. */
import { sleep } from '../../base/clock.ts';
import type { LocalControlPlane } from '../../sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { Benchmark } from '../benchmark.ts';
import { openBenchControl } from '../control.ts';

/** As fast as Python can: the kernel kills soonest then. */
const BALLOON = 'kept = []\nwhile True: kept.append(bytearray(1 << 20))';
const MEMORY_MIB = 192;
/** Time enough to pause a sandbox, or to begin to save it. */
const ENOUGH_MS = 500;
/** From the end of the program to the event of its kill. */
const EVENT_MS_MAX = 10_000;

export const oomBenchmark: Benchmark = {
  names: ['oom.lead'],
  summary: `from near_oom until a program that takes memory as fast as it can is killed; ${MEMORY_MIB} MiB`,
  async measure(context) {
    const { runtime, rounds, signal, say } = context;
    await using opened = await openBenchControl(context);
    const { control } = opened;
    const size = { memoryMib: MEMORY_MIB, diskMib: 64, warm: ['json'], boot: true };
    const { id } = await control.create(size, signal);
    const attempts = new Attempts(signal);
    const leads: number[] = [];
    for (let round = 1; round <= rounds; round += 1) {
      say(`oom ${round} of ${rounds}`);
      await attempts.run(async () => void leads.push(await leadMs(control, id, signal)));
    }
    const enough = leads.filter((ms) => ms >= ENOUGH_MS).length;
    const least = leads.length === 0 ? '-' : Math.min(...leads).toFixed(0);
    return [
      {
        name: 'oom.lead',
        unit: 'ms',
        accelerator: runtime.driver.accelerator,
        samples: leads,
        baseline: null,
        ...attempts.told(
          `at least ${ENOUGH_MS} ms in ${enough} of ${rounds}, the least ${least} ms; by when the host was told`,
        ),
      },
    ];
  },
};

/** Both ends by when the host was told. @throws Error when near_oom did not come before the kill */
async function leadMs(
  control: LocalControlPlane,
  id: string,
  signal: AbortSignal,
): Promise<number> {
  const over = new AbortController();
  let nearAt: number | undefined;
  const first = await lastEvent(control, id);
  const killed = (async () => {
    const both = AbortSignal.any([over.signal, signal]);
    for await (const event of control.events(id, { after: first, signal: both })) {
      if (event.type === 'near_oom') nearAt ??= performance.now();
      if (event.type === 'oom') return performance.now();
    }
    return null;
  })();
  try {
    const guest = await control.guest(id);
    const process = await guest.python({ script: { code: BALLOON }, stdin: false }, signal);
    process.stdout.resume();
    process.stderr.resume();
    const exit = await process.exit;
    const killedAt = await Promise.race([killed, sleep(EVENT_MS_MAX).then(() => null)]);
    if (!exit.oomKilled) throw new Error(`it was not killed for want of memory: ${exit.signal}`);
    if (nearAt === undefined || killedAt === null) throw new Error('it was killed without a word');
    return killedAt - nearAt;
  } finally {
    over.abort();
  }
}

async function lastEvent(control: LocalControlPlane, id: string): Promise<number> {
  let last = 0;
  for await (const { seq } of control.events(id, { follow: false })) last = seq;
  return last;
}
