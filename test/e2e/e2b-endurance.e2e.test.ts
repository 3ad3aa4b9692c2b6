/** E2B's client on a daemon with real VMs: a mixed load that leaves nothing, and a daemon that is killed. */
import { readdir, readFile } from 'node:fs/promises';
import { NotFoundError, Sandbox } from 'e2b';
import { describe, expect, it } from 'vitest';
import { leftIn, useDaemonHome, vmmsIn } from '../support/daemon.ts';
import { runE2bSoak } from '../support/e2b-soak.ts';
import { cgroupsOf, linksOf, socketsOf } from '../support/e2b-soak-state.ts';
import { isFullRun } from '../support/full-run.ts';

const SOAK_MS = isFullRun() ? 60_000 : 20_000;

describe('mixed load', () => {
  // 30 minutes of it: `node tools/e2b-soak.ts`.
  it('leaves no process, file, socket, network or memory behind, and nothing fails', async () => {
    const { failures, leaks, done, busy, log } = await runE2bSoak({ seed: 1, ms: SOAK_MS, rounds: 1 });
    expect({ failures, leaks, log }).toEqual({ failures: [], leaks: [], log: expect.anything() });
    expect(done.get('end')).toBeGreaterThan(1);
    expect(busy).toBeLessThan(done.get('end') ?? 0);
  });
});

describe('a daemon that is killed', () => {
  const home = useDaemonHome();

  const start = async () => {
    const daemon = home.serve('-o', 'json', '--pool', '0', '--port', '0');
    const { url = null, apiKeyPath } = await daemon.ready();
    const apiKey = (await readFile(apiKeyPath ?? '', 'utf8')).trim();
    const client = { apiKey, apiUrl: url ?? '', sandboxUrl: url ?? '', requestTimeoutMs: 300_000 };
    return { daemon, client };
  };

  it('leaves no VM; the next one knows paused sandboxes with their programs, and the others are gone', async () => {
    const first = await start();
    const options = { ...first.client, timeoutMs: 600_000 };
    const idle = await Sandbox.create('agent', options);
    const busy = await Sandbox.create('agent', options);
    const kept = await Sandbox.create('agent', options);
    const program = await kept.commands.run('exec sleep 6000', { background: true });
    await kept.pause();
    const followed = await busy.commands.run('while :; do echo on; sleep 0.1; done', { background: true });
    const end = followed.wait().then(
      () => 'ended',
      (error: unknown) => error,
    );
    expect(await vmmsIn(home.runDir)).toHaveLength(2);
    expect(await cgroupsOf(first.daemon.pid)).not.toEqual([]);
    first.daemon.kill('SIGKILL');
    expect(await first.daemon.ended).toBeNull();
    expect(await end).toBeInstanceOf(Error);
    await expect.poll(() => vmmsIn(home.runDir)).toEqual([]);

    const { daemon, client } = await start();
    expect(await readdir(home.runDir)).toEqual(['daemon.sock']);
    expect(await cgroupsOf(first.daemon.pid)).toEqual([]);
    expect(await linksOf(first.daemon.pid)).toEqual([]);
    expect(await socketsOf([home.dir])).toHaveLength(1);
    expect(await Sandbox.list(client).nextItems()).toMatchObject([{ sandboxId: kept.sandboxId, state: 'paused' }]);
    for (const { sandboxId } of [idle, busy]) {
      await expect(Sandbox.connect(sandboxId, client)).rejects.toThrow(NotFoundError);
      const headers = { 'e2b-sandbox-id': sandboxId, 'e2b-sandbox-port': '8080' };
      expect((await fetch(client.apiUrl, { headers })).status).toBe(502);
      const events = `${client.apiUrl}/events/sandboxes/${sandboxId}?types=sandbox.lifecycle.killed`;
      const answer = await fetch(events, { headers: { 'x-api-key': client.apiKey } });
      expect(await answer.json()).toMatchObject([{ type: 'sandbox.lifecycle.killed' }]);
    }
    const again = await Sandbox.connect(kept.sandboxId, client);
    expect((await again.commands.list()).map(({ pid }) => pid)).toEqual([program.pid]);
    expect(await again.kill()).toBe(true);
    daemon.kill('SIGTERM');
    expect(await daemon.ended).toBe(0);
    expect(await leftIn(home)).toEqual([]);
  });
});
