/** The kernel of this host kills a process of a control group, and the kill is reported. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterAll, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { CgroupMemory } from '../../src/machine/observe/cgroup-memory.ts';
import type { HostMemoryEvents } from '../../src/sandbox/contract/memory-events.ts';
import { makeHostCgroup } from '../support/host-cgroup.ts';
import { requires } from '../support/requires.ts';

const made = makeHostCgroup('nv-test-memory');
afterAll(() => made?.remove());

/** Waits for a line, so that it is in the group before it takes memory. */
const BALLOON = 'input()\nkept = []\nwhile True: kept.append(bytearray(1 << 20))';

requires('cgroup', made ?? 'no group that limits memory').describe('CgroupMemory, in a real group', (group) => {
  it('counts and reports the kill, even if the group is removed right after', async () => {
    group.limit(40 * 2 ** 20);
    const memory = new CgroupMemory(group.dir, systemClock);
    const watch: HostMemoryEvents = memory;
    const seen: string[] = [];
    const stop = watch.listen(({ type }) => void seen.push(type));
    const child = spawn('python3', ['-c', BALLOON], { stdio: ['pipe', 'ignore', 'ignore'] });
    group.add(child.pid ?? 0);
    child.stdin.end('go\n');
    const [, signal] = (await once(child, 'exit')) as [number | null, string | null];
    stop();
    expect(signal).toBe('SIGKILL');
    expect(watch.oomKills()).toBe(1);
    expect(seen).toContain('oom');
  });
});
