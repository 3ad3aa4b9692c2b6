/** Sandboxes in sequence and at once leave nothing. */

import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, describe, expect, it } from 'vitest';
import { isFullRun } from '../support/full-run.ts';
import { type Holdings, holdings } from '../support/leftovers.ts';
import { python, useRuntime } from '../support/vm.ts';

const ONE_AFTER_ANOTHER = isFullRun() ? 50 : 4;
const AT_ONCE = 5;

const fixture = useRuntime();

async function runOne(value: number): Promise<void> {
  const sandbox = await fixture.runtime.startVm({ memoryMib: 192 });
  try {
    expect(await python(sandbox.guest(), `print(${value} * 2)`)).toMatchObject({
      exitCode: 0,
      stdout: `${value * 2}\n`,
    });
  } finally {
    await sandbox.stop();
  }
}

/** Node closes some descriptors a turn later; real leftovers stay. */
async function settled(): Promise<Holdings> {
  await sleep(500);
  return await holdings(fixture.runtime.home.runDir);
}

describe('churn', () => {
  let before: Holdings;
  beforeAll(async () => {
    // The first sandbox starts the vsock worker and what else lives as long as the runtime.
    await runOne(0);
    before = await settled();
  });

  it(`${ONE_AFTER_ANOTHER} sandboxes in sequence leave no process, file or descriptor`, async () => {
    for (let n = 1; n <= ONE_AFTER_ANOTHER; n += 1) await runOne(n);
    expect(await settled()).toEqual(before);
  });

  it(`${AT_ONCE} sandboxes at once leave nothing behind, and each gets its own output`, async () => {
    await Promise.all(Array.from({ length: AT_ONCE }, (_, n) => runOne(n)));
    expect(await settled()).toEqual(before);
  });
});
