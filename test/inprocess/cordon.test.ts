/** A cordoned host and its drain, on the real control plane with fake VMs. */
import { describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { type DrainedDaemon, drain } from '../../src/cli/commands/keys/drain.ts';
import { BusyError } from '../../src/sandbox/contract/errors.ts';
import { SESSION_ANNOTATION } from '../../src/sandbox/contract/request.ts';
import { REFILL_DELAY_MS } from '../../src/sandbox/start/pools.ts';
import { openGate } from '../../src/sandbox/start/start-gate.ts';
import { BACKOFF_MS_MAX } from '../../src/sandbox/start/warm-pool.ts';
import { FakeHost } from '../support/fake-host.ts';
import { settle } from '../support/fake-members.ts';
import { testCli } from '../support/test-cli.ts';

async function openHost() {
  const gate = { ...openGate, isCordoned: false };
  const host = await FakeHost.open({ gate });
  const { control } = host;
  const busy = new Map<string, number>();
  const daemon: DrainedDaemon = {
    host: () => control.host(),
    list: () => control.list(),
    pause: (id, to) => control.pause(id, to),
    loads: async () => ({ sandboxes: [...busy].map(([id, modelRequests]) => ({ id, modelRequests })) }) as never,
    administration: async () => ({
      setSettings: async ({ cordoned = false }) => {
        gate.isCordoned = cordoned;
        return { modelBudget: null, cordoned };
      },
    }),
  };
  return { host, gate, control, daemon, busy };
}

describe('a cordoned host', () => {
  it('refuses creations and forks, asks to retry, and lets its sandboxes go on', async () => {
    const { host, gate, control } = await openHost();
    await using _ = host;
    const { id } = await control.create({ boot: true });
    const { id: snapshot } = await control.snapshot(id);
    gate.isCordoned = true;
    for (const start of [
      () => control.create({ boot: true }),
      () => control.create({ snapshot }),
      () => control.fork(id, { count: 1 }),
    ]) {
      const error = await start().catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(BusyError);
      expect(error).toMatchObject({ code: 'busy', remedy: expect.stringContaining('neurovisor uncordon') });
    }
    expect(await control.host()).toMatchObject({ cordoned: true, starting: 0, sandboxes: 1 });
    await control.pause(id, 'disk');
    expect(await control.resume(id)).toMatchObject({ status: 'running' });
    gate.isCordoned = false;
    expect(await control.fork(id, { count: 1 })).toMatchObject([{ ok: true }]);
  });

  it('refills no pool, and does so again afterwards', async () => {
    const { host, gate, control } = await openHost();
    await using _ = host;
    gate.isCordoned = true;
    await control.setPool({ min: 1, max: 1 });
    host.clock.advance(REFILL_DELAY_MS);
    await settle();
    expect(await control.pools()).toMatchObject([{ ready: 0 }]);
    gate.isCordoned = false;
    host.clock.advance(BACKOFF_MS_MAX);
    await expect.poll(async () => (await control.pools())[0]?.ready).toBe(1);
  });
});

describe('drain', () => {
  it('an empty host is drained at once, and stays cordoned', async () => {
    const { host, gate, daemon } = await openHost();
    await using _ = host;
    const { cli, stdout } = testCli();
    expect(await drain(cli, daemon, {})).toBe(0);
    expect(stdout()).toMatch(/^drained: no sandbox runs/);
    expect(gate.isCordoned).toBe(true);
  });

  it('--pause: pauses all to disk, those without a model request first', async () => {
    const { host, control, daemon, busy } = await openHost();
    await using _ = host;
    const { id: first } = await control.create({ boot: true });
    const { id: second } = await control.create({ boot: true });
    await control.pause(second, 'memory');
    busy.set(first, 1);
    const { cli, stdout } = testCli({ json: true });
    expect(await drain(cli, daemon, { pause: true })).toBe(0);
    expect(JSON.parse(stdout())).toEqual({
      drained: true,
      paused: [second, first],
      running: [],
      starting: 0,
      failed: {},
    });
    for (const id of [first, second]) expect(await control.get(id)).toMatchObject({ pausedTo: 'disk' });
  });

  it('names at its time-out what still runs: also the sandbox of a session, which it does not pause', async () => {
    const { host, control, daemon } = await openHost();
    await using _ = host;
    const { id } = await control.create({ boot: true, annotations: { [SESSION_ANNOTATION]: 's' } });
    const { cli, stderr } = testCli();
    expect(await drain(cli, daemon, { pause: true, timeout: 1000 }, systemClock)).toBe(124);
    expect(stderr()).toContain(`not drained after 1 s: 1 sandbox runs: ${id}\n`);
    expect(await control.get(id)).toMatchObject({ status: 'running' });
  });

  it('Ctrl-C ends the wait, and says that the host stays cordoned', async () => {
    const { host, gate, control, daemon } = await openHost();
    await using _ = host;
    await control.create({ boot: true });
    const { cli, stderr } = testCli();
    const draining = drain(cli, daemon, {}).catch((error: unknown) => error);
    await expect.poll(stderr).toContain('waiting: 1 sandbox runs\n');
    cli.handleSignal('SIGINT');
    expect(await draining).toMatchObject({ name: 'AbortError' });
    expect(stderr()).toContain('the host stays cordoned; undo with: neurovisor uncordon\n');
    expect(gate.isCordoned).toBe(true);
  });
});
