/** The parity suite of all drivers, with Linux guests on KVM: this checkout's own tests, run in the nested host. */
import { expect, it } from 'vitest';
import type { NestedWorld } from './nested.ts';

/** 14 minutes on two cores with a load of 11. */
const DRIVERS_MS_MAX = 3_000_000;

/** Output of Vitest's JSON reporter. */
interface Results {
  readonly numPassedTests: number;
  readonly numPendingTests: number;
  readonly testResults: readonly {
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

/** Body of a `describe`. */
export function nestedDrivers(world: NestedWorld): void {
  it('all drivers do the same with Linux guests on KVM', { timeout: DRIVERS_MS_MAX }, async () => {
    // The configuration is loaded as it is, since node_modules is read-only there.
    const script = `
      node node_modules/vitest/vitest.mjs run --configLoader native --project vm --reporter json \
        test/vm/kvm-drivers.vm.test.ts --outputFile /tmp/drivers.json > /tmp/drivers.log 2>&1
      cat /tmp/drivers.json || cat /tmp/drivers.log`;
    const { numPassedTests, numPendingTests, testResults } = JSON.parse(
      await world.sh(script, DRIVERS_MS_MAX),
    ) as Results;
    const failed = testResults
      .flatMap(({ assertionResults }) => assertionResults)
      .filter(({ status }) => status === 'failed')
      .map(({ fullName, failureMessages }) => [fullName, ...failureMessages]);
    expect(failed).toEqual([]);
    expect(numPendingTests).toBe(0);
    expect(numPassedTests).toBeGreaterThan(70);
  });
}
