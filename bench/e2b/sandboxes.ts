/**
 * Sandboxes through E2B's interface: concurrent creations, the first command, and files; against the control plane
 * itself.
 */
import { text as readText } from 'node:stream/consumers';
import { MIB } from '../../src/base/units.ts';
import type { ControlPlane } from '../../src/sandbox/contract/control.ts';
import { Attempts } from '../attempts.ts';
import type { BenchContext, Benchmark, Measurement } from '../benchmark.ts';
import { waitForCalm } from '../calm.ts';
import { compare, rowsOf } from '../compare.ts';
import { openBenchControl } from '../control.ts';
import { type E2bClient, type E2bSandbox, openE2bClient } from './client.ts';

const TEMPLATE = 'agent';
const AT_ONCE = [1, 5, 10, 50] as const;
const FILE_BYTES = 100 * MIB;
const FILE = '/home/user/file';
const MB = 1e6;

export const e2bBenchmark: Benchmark = {
  names: [...AT_ONCE.map((count) => `e2b.create/${count}`), 'e2b.first', 'e2b.upload', 'e2b.download'],
  summary:
    "through E2B's interface: each of N sandboxes created at once; creation and the first command; files of 100 MiB",
  async measure(context) {
    await using opened = await openBenchControl(context);
    const { control } = opened;
    await using client = await openE2bClient(control, context);
    // Builds the template and fills the page cache.
    await client.remove(await client.create(TEMPLATE));
    const measured: Measurement[] = [];
    for (const count of AT_ONCE) {
      if (context.wants(`e2b.create/${count}`)) {
        measured.push(await createAtOnce(context, client, control, count));
      }
    }
    if (context.wants('e2b.first')) measured.push(await firstCommand(context, client, control));
    if (context.wants('e2b.upload') || context.wants('e2b.download')) {
      measured.push(...(await files(context, client, control)));
    }
    return measured;
  },
};

/** Rounds of `count` concurrent creations, as many as give `rounds` samples. */
async function createAtOnce(
  context: BenchContext,
  client: E2bClient,
  control: ControlPlane,
  count: number,
): Promise<Measurement> {
  const { rounds, signal, say, runtime } = context;
  const attempts = new Attempts(signal);
  const samples: number[] = [];
  const own: number[] = [];
  for (let round = 0; samples.length < rounds && round < rounds; round += 1) {
    say(`${count} creations at once, round ${round + 1}`);
    await waitForCalm(signal);
    const made: E2bSandbox[] = [];
    await Promise.all(
      Array.from({ length: count }, () =>
        attempts.run(async () => {
          const began = performance.now();
          made.push(await client.create(TEMPLATE));
          samples.push(performance.now() - began);
        }),
      ),
    );
    await Promise.all(made.map((one) => client.remove(one)));
    await waitForCalm(signal);
    const ids: string[] = [];
    await Promise.all(
      Array.from({ length: count }, async () => {
        const began = performance.now();
        ids.push((await control.create({ template: TEMPLATE }, signal)).id);
        own.push(performance.now() - began);
      }),
    );
    await Promise.all(ids.map((id) => control.remove(id)));
  }
  const row = rowsOf('ms', runtime.driver.accelerator);
  return row(`e2b.create/${count}`, samples, ['the control plane, the same', own], attempts.failures());
}

async function firstCommand(context: BenchContext, client: E2bClient, control: ControlPlane): Promise<Measurement> {
  const { signal, runtime } = context;
  const attempts = new Attempts(signal);
  const ways = {
    e2b: async () => {
      await waitForCalm(signal);
      return await attempts.run(async () => {
        const began = performance.now();
        const sandbox = await client.create(TEMPLATE);
        try {
          const said = await client.run(sandbox, 'echo hi');
          if (said !== 'hi\n') throw new Error(`the command printed ${said}`);
          return { ms: performance.now() - began };
        } finally {
          await client.remove(sandbox);
        }
      });
    },
    own: async () => {
      await waitForCalm(signal);
      const began = performance.now();
      const { id } = await control.create({ template: TEMPLATE }, signal);
      const argv = ['/bin/bash', '-l', '-c', 'echo hi'];
      const process = await (await control.guest(id)).exec({ argv, stdin: false }, signal);
      process.stderr.resume();
      await Promise.all([readText(process.stdout), process.exit]);
      const ms = performance.now() - began;
      await control.remove(id);
      return { ms };
    },
  };
  const { e2b, own } = await compare(context, 'first command', ways, { warmUp: false });
  const row = rowsOf('ms', runtime.driver.accelerator);
  const failures = attempts.failures("`bash -l -c 'echo hi'`, until its end is known");
  return row('e2b.first', e2b('ms'), ['the control plane, the same', own('ms')], failures);
}

async function files(context: BenchContext, client: E2bClient, control: ControlPlane): Promise<Measurement[]> {
  const { signal, runtime } = context;
  const sandbox = await client.create(TEMPLATE);
  const content = new Uint8Array(FILE_BYTES).fill(7);
  const speed = async (work: () => Promise<unknown>): Promise<number> => {
    const began = performance.now();
    await work();
    return FILE_BYTES / MB / ((performance.now() - began) / 1000);
  };
  try {
    const guest = await control.guest(sandbox.id);
    const round = async () => {
      await waitForCalm(signal);
      return {
        up: await speed(() => client.upload(sandbox, FILE, new Blob([content]))),
        ownUp: await speed(() => guest.files.write(FILE, content)),
        down: await speed(() => client.download(sandbox, FILE)),
        ownDown: await speed(async () => {
          for await (const _part of await guest.files.read(FILE)) signal.throwIfAborted();
        }),
      };
    };
    const { all } = await compare(context, 'files', { all: round }, { warmUp: false });
    const row = rowsOf('MB/s', runtime.driver.accelerator);
    const baseline = 'the guest protocol, the same';
    return [
      row('e2b.upload', all('up'), [baseline, all('ownUp')]),
      row('e2b.download', all('down'), [baseline, all('ownDown')]),
    ];
  } finally {
    await client.remove(sandbox);
  }
}
