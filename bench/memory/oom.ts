/** The lead time of near_oom before the guest's kernel kills a program. */
import { sleep } from '../../src/base/clock.ts';
import type { LocalControlPlane } from '../../src/sandbox/plane/control-plane.ts';
import { Attempts } from '../attempts.ts';
import type { Benchmark } from '../benchmark.ts';
import { compare, rowsOf } from '../compare.ts';
import { openBenchControl } from '../control.ts';

/** Allocates as fast as Python can, so that the kernel kills soonest. */
const BALLOON = 'kept = []\nwhile True: kept.append(bytearray(1 << 20))';
const MEMORY_MIB = 192;
/** Enough time to pause a sandbox, or to begin to save it. */
const ENOUGH_MS = 500;
/** Time limit from the end of the program to the event of its kill. */
const EVENT_MS_MAX = 10_000;

export const oomBenchmark: Benchmark = {
  names: ['oom.lead'],
  summary: `from near_oom until a program that allocates as fast as it can is killed; ${MEMORY_MIB} MiB`,
  async measure(context) {
    const { runtime, rounds, signal } = context;
    await using opened = await openBenchControl(context);
    const { control } = opened;
    const size = { memoryMib: MEMORY_MIB, diskMib: 64, warm: ['json'], boot: true };
    const { id } = await control.create(size, signal);
    const attempts = new Attempts(signal);
    const ways = { own: () => attempts.run(async () => ({ lead: await leadMs(control, id, signal) })) };
    const { own } = await compare(context, 'oom', ways, { warmUp: false });
    const leads = own('lead');
    const enough = leads.filter((ms) => ms >= ENOUGH_MS).length;
    const least = leads.length === 0 ? '-' : Math.min(...leads).toFixed(0);
    const note = `at least ${ENOUGH_MS} ms in ${enough} of ${rounds}, the minimum ${least} ms; measured when the host got the events`;
    return [rowsOf('ms', runtime.driver.accelerator)('oom.lead', leads, null, attempts.failures(note))];
  },
};

/** Both times are when the host received the event. @throws Error if near_oom did not precede the kill */
async function leadMs(control: LocalControlPlane, id: string, signal: AbortSignal): Promise<number> {
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
    if (!exit.oomKilled) throw new Error(`the program was not OOM-killed: ${exit.signal}`);
    if (nearAt === undefined || killedAt === null) throw new Error('there was no near_oom event before the kill');
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
