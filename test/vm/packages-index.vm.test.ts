/** `pip install` in a guest without a network card, from the index that this machine's own pip uses. */
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
  const sandbox = await fixture.runtime.startVm({
    memoryMib: 256,
    packages: { ecosystems: ['pip'], allow: ['six'] },
  });
  const events: unknown[] = [];
  sandbox.events.listen((event) => events.push(event));
  const installed = await exec(sandbox.guest(), [
    'pip',
    'install',
    '--only-binary',
    ':all:',
    'six',
  ]);
  expect([installed.exitCode, installed.stderr]).toEqual([0, '']);
  expect(installed.stdout).toContain('Successfully installed six-');
  expect(events).toContainEqual(
    expect.objectContaining({ type: 'package', name: 'six', outcome: 'ok', ecosystem: 'pip' }),
  );
  await sandbox.stop();
});
