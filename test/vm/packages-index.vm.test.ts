/** pip and apt in a guest without a network card, from the indexes that this machine's own clients use. */
import { afterAll, expect, it } from 'vitest';
import { findHostIndexes } from '../support/host-index.ts';
import { startMockUpstream } from '../support/mock-upstream.ts';
import { need } from '../support/requires.ts';
import { exec, useRuntime } from '../support/vm.ts';

const upstream = await startMockUpstream();
const fixture = useRuntime(upstream.target.baseUrl ?? '');

afterAll(() => upstream.close());

it('pip: a real package, with its digest as an event', async (context) => {
  need(context, 'python-index', await findHostIndexes());
  const sandbox = await fixture.runtime.startVm({ memoryMib: 256, packages: { ecosystems: ['pip'], allow: ['six'] } });
  const events: unknown[] = [];
  sandbox.events.listen((event) => events.push(event));
  const installed = await exec(sandbox.guest(), ['pip', 'install', '--only-binary', ':all:', 'six']);
  expect([installed.exitCode, installed.stderr]).toEqual([0, '']);
  expect(installed.stdout).toContain('Successfully installed six-');
  expect(events).toContainEqual(
    expect.objectContaining({ type: 'package', name: 'six', outcome: 'ok', ecosystem: 'pip' }),
  );
  await sandbox.stop();
});

it('apt: the signed lists, and a package that then runs', { timeout: 300_000 }, async (context) => {
  need(context, 'debian-archive', await findHostIndexes('debian'));
  const sandbox = await fixture.runtime.startVm({
    memoryMib: 512,
    packages: { ecosystems: ['apt'], allow: ['hello'] },
  });
  const events: unknown[] = [];
  sandbox.events.listen((event) => events.push(event));
  const root = { user: 'root' };
  const updated = await exec(sandbox.guest(), ['apt-get', 'update'], root);
  expect([updated.exitCode, updated.stderr]).toEqual([0, '']);
  const install = ['apt-get', 'install', '-y', '--no-install-recommends'];
  const installed = await exec(sandbox.guest(), [...install, 'hello'], root);
  expect([installed.exitCode, installed.stdout]).toEqual([0, expect.stringContaining('hello')]);
  expect((await exec(sandbox.guest(), ['hello'])).stdout).toBe('Hello, world!\n');
  const denied = await exec(sandbox.guest(), [...install, 'sl'], root);
  expect([denied.exitCode === 0, denied.stderr]).toEqual([
    false,
    expect.stringContaining('sl is not in --packages-allow of this sandbox'),
  ]);
  expect(events).toContainEqual(
    expect.objectContaining({ type: 'package', name: 'hello', outcome: 'ok', ecosystem: 'apt' }),
  );
  await sandbox.stop();
});
