import { describe, expect, it } from 'vitest';
import { JailError } from '../../machine/jail/errors.ts';
import type { Vm, VmmDriver, VmSpec } from '../../machine/vmm/driver.ts';
import { VmmError } from '../../machine/vmm/errors.ts';
import { JailMetrics } from './jail-metrics.ts';

function value(metrics: JailMetrics, name: string, labels: Record<string, string>) {
  const samples =
    metrics
      .list()
      .find((each) => each.name === name)
      ?.samples() ?? [];
  const isIt = (of: Readonly<Record<string, string>>): boolean =>
    Object.entries(labels).every(([key, text]) => of[key] === text);
  return samples.find((sample) => isIt(sample.labels))?.value;
}

describe('JailMetrics', () => {
  it('neurovisor_jailed_vmms: running VMMs by mode of their jail', () => {
    let pids: number[] = [];
    const metrics = new JailMetrics('log', () => pids);
    const now = (mode: string) => value(metrics, 'neurovisor_jailed_vmms', { mode });
    expect([now('enforced'), now('log'), now('off')]).toEqual([0, 0, 0]);
    pids = [2 ** 30, 2 ** 30 + 1];
    expect([now('enforced'), now('log'), now('off')]).toEqual([0, 2, 0]);
    // Processes that have ended, or have no group of their own, use none of it.
    const most = { kind: 'current', over: 'max' };
    expect(value(metrics, 'neurovisor_vmm_group_memory_bytes', most)).toBe(0);
    expect(value(metrics, 'neurovisor_vmm_group_memory_ratio', {})).toBe(0);
  });

  it('watchStarts: counts starts that failed in the jail, and no others', async () => {
    let failure: Error | null = null;
    const driver = {
      name: 'fake',
      machineOf: () => 'as it was',
      start: async () => {
        if (failure !== null) throw failure;
        return {} as Vm;
      },
    } as Partial<VmmDriver> as VmmDriver;
    const metrics = new JailMetrics('enforced', () => []);
    const watched = metrics.watchStarts(driver);
    const failed = (code: string) => value(metrics, 'neurovisor_jail_start_failures_total', { code });
    const start = () => watched.start({} as VmSpec);
    await start();
    failure = new VmmError('vm_gone', 'it ended');
    await expect(start()).rejects.toBe(failure);
    expect([failed('jail_failed'), failed('jail_plan_invalid')]).toEqual([0, 0]);
    const cause = new JailError('jail_failed', 'set the limits of a VMM');
    failure = new VmmError('vm_gone', 'start QEMU', { cause });
    await expect(start()).rejects.toBe(failure);
    failure = cause;
    await expect(start()).rejects.toBe(cause);
    expect([failed('jail_failed'), failed('jail_plan_invalid')]).toEqual([2, 0]);
    expect(watched.machineOf?.({ cpus: 1, memoryMib: 1 })).toBe('as it was');
  });
});
