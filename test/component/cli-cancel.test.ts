/** Ctrl-C on commands that wait for the daemon: they end, and report the effect on the work. */
import { expect, it } from 'vitest';
import type { Cli } from '../../src/cli/cli.ts';
import { poolSet } from '../../src/cli/commands/host.ts';
import { pause } from '../../src/cli/commands/sandboxes.ts';
import { fork, snapshotCreate } from '../../src/cli/commands/snapshot.ts';
import type { ControlPlane } from '../../src/sandbox/contract/control.ts';
import { FakeControlPlane } from '../support/fake-control-plane.ts';
import { testCli } from '../support/test-cli.ts';

const ID = 'a'.repeat(20);

it.each<[keyof ControlPlane, (cli: Cli, control: ControlPlane) => Promise<number>]>([
  ['setPool', (cli, control) => poolSet(cli, control, { min: 0, max: 1 }, { warm: [] })],
  ['pause', (cli, control) => pause(cli, control, [ID], {})],
  ['snapshot', (cli, control) => snapshotCreate(cli, control, ID, {})],
  ['fork', (cli, control) => fork(cli, control, ID, { label: [] })],
])('%s: Ctrl-C ends the command while the daemon continues', async (what, command) => {
  await using control = new FakeControlPlane();
  const begun = Promise.withResolvers<void>();
  const never = (): Promise<never> => {
    begun.resolve();
    return new Promise(() => undefined);
  };
  Object.defineProperty(control, what, { value: never });
  const { cli, stdout, stderr } = testCli();
  const outcome = command(cli, control);
  await begun.promise;
  cli.handleSignal('SIGINT');
  await expect(outcome).rejects.toMatchObject({ name: 'AbortError' });
  expect(stderr()).toBe('neurovisor: interrupted; the daemon may still complete the request\n');
  expect(stdout()).toBe('');
  expect(cli.signalStatus).toBe(130);
});
