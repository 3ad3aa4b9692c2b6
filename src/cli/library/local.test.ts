import { describe, expect, it } from 'vitest';
import { silentLog } from '../../base/log.ts';
import type { ControlPlane, SandboxInfo } from '../../sandbox/contract/control.ts';
import { LocalPlane } from './local.ts';

type Change = Pick<SandboxInfo, 'id' | 'status' | 'pausedTo'>;

/** Planes in the order of their opening; each can report a change and be closed. */
function world(close: () => Promise<void> = async () => undefined) {
  const events: string[] = [];
  const report: ((change: Change) => void)[] = [];
  const errors: string[] = [];
  const plane = new LocalPlane(async () => {
    const n = report.length + 1;
    events.push(`open ${n}`);
    const control: Pick<ControlPlane, 'onChange'> = {
      onChange: (listener) => {
        report.push((change) => listener(change as SandboxInfo));
        return () => undefined;
      },
    };
    return {
      control: control as ControlPlane,
      close: async () => {
        events.push(`close ${n}`);
        await close();
      },
    };
  });
  const log = { ...silentLog, error: (message: string) => void errors.push(message) };
  return { host: plane.host({ log }), events, report, errors };
}

const RUNNING: Change = { id: 'a', status: 'running', pausedTo: null };

describe('LocalPlane', () => {
  it('opens with the first use, closes after the last, and opens again', async () => {
    const { host, events } = world();
    await Promise.all([host.use(async () => 1), host.use(async () => 2)]);
    expect(events).toEqual(['open 1', 'close 1']);
    await host.use(async () => events.push('use'));
    expect(events).toEqual(['open 1', 'close 1', 'open 2', 'use', 'close 2']);
  });

  it('stays open while a sandbox runs, and closes when it has ended or is on the disk', async () => {
    const { host, events, report } = world();
    await host.use(async () => report[0]?.(RUNNING));
    expect(events).toEqual(['open 1']);
    report[0]?.({ ...RUNNING, status: 'paused', pausedTo: 'memory' });
    expect(events).toEqual(['open 1']);
    report[0]?.({ ...RUNNING, status: 'paused', pausedTo: 'disk' });
    await expect.poll(() => events).toEqual(['open 1', 'close 1']);
  });

  it('a failed close is logged, fails no call, and the next use opens again', async () => {
    const { host, events, report, errors } = world(() => Promise.reject(new Error('no space')));
    expect(await host.use(async () => 'done')).toBe('done');
    await host.use(async () => report[1]?.(RUNNING));
    // This close is not awaited: its failure must not end the process.
    report[1]?.({ ...RUNNING, status: 'ended' });
    await expect.poll(() => errors).toHaveLength(2);
    expect(await host.use(async () => 'again')).toBe('again');
    expect(events.filter((event) => event.startsWith('open'))).toHaveLength(3);
  });

  it('a failed open fails its call alone', async () => {
    let opened = 0;
    const plane = new LocalPlane(async () => {
      opened += 1;
      throw new Error(`not now ${opened}`);
    });
    const host = plane.host({});
    await expect(host.use(async () => 1)).rejects.toThrow('not now 1');
    await expect(host.use(async () => 1)).rejects.toThrow('not now 2');
  });
});
