/** The library after its daemon was killed. */
import { expect, it } from 'vitest';
import { Sandbox } from '../../src/index.ts';
import { Hosts } from '../../src/library/hosts.ts';
import { startFakeDaemon } from '../support/fake-daemon.ts';

it('Hosts, Sandbox: a killed daemon is host-lost, and the next use falls back to this process', async () => {
  const daemon = await startFakeDaemon();
  const before = { ...process.env };
  Object.assign(process.env, daemon.env);
  try {
    const hosts = new Hosts();
    expect(await hosts.open({})).toMatchObject({ guestsLast: true });
    const sandbox = await Sandbox.create();
    await daemon[Symbol.asyncDispose]();
    expect(await hosts.open({})).toMatchObject({ guestsLast: false });
    expect(await sandbox.ended).toMatchObject({ cause: 'host-lost' });
    await expect(sandbox.exec(['true'])).rejects.toMatchObject({ code: 'gone' });
  } finally {
    process.env = before;
  }
});
