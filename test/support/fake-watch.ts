/** What the control plane in memory reports: what tests put there. */
import { systemClock } from '../../src/base/clock.ts';
import type { UsageRecord } from '../../src/inference/bridge/bridge.ts';
import type { Vm } from '../../src/machine/vmm/driver.ts';
import type { SandboxLogs } from '../../src/sandbox/contract/ending.ts';
import type { Watch } from '../../src/sandbox/contract/watch.ts';
import { followLogs } from '../../src/sandbox/plane/logs.ts';
import type { FakeSandbox, FakeSandboxes } from './fake-sandboxes.ts';

interface FakeWatch extends Omit<Watch, 'onChange'> {
  /** The result of `usage`. */
  readonly usageRecords: UsageRecord[];
  /** The result of `logs`. */
  readonly logsOf: Map<string, SandboxLogs>;
  /** For tests to write to. */
  tails(id: string): FakeSandbox['tails'];
  /** For tests to add events to. */
  journal(id: string): FakeSandbox['events'];
}

export function fakeWatch(sandboxes: FakeSandboxes): FakeWatch {
  const { before, any, live } = sandboxes;
  const startedAtMs = systemClock.wall();
  const usageRecords: UsageRecord[] = [];
  const logsOf = new Map<string, SandboxLogs>();
  const tails = (id: string): FakeSandbox['tails'] => any(id).tails;
  return {
    usageRecords,
    logsOf,
    tails,
    journal: (id) => any(id).events,
    host: async () => {
      before('host');
      const listed = await sandboxes.list();
      return {
        version: '0.0.0',
        vmm: 'none (agents as processes)',
        vmmReason: 'as configured',
        memorySharing: 'none',
        accelerator: 'fake',
        upstream: 'none',
        models: ['llama', 'qwen'],
        sandboxes: listed.length,
        paused: listed.filter(({ status }) => status === 'paused').length,
        queued: 0,
        starting: 0,
        cordoned: false,
        memoryAvailableMib: 1024,
        startedAtMs,
        modelBudgets: [],
        longTurns: [],
      };
    },
    channelStats: async (id) => {
      before('channelStats');
      const { operations } = live(id);
      return {
        bytesGuestToHost: 0,
        bytesHostToGuest: 0,
        connectionsOpened: 0,
        connectionsOpen: operations.size,
        connectionsRefused: 0,
        protocolErrors: 0,
        throttledMsGuestToHost: 0,
        throttledMsHostToGuest: 0,
      };
    },
    usage: async (id) => {
      before('usage');
      any(id);
      return usageRecords;
    },
    logs: async (id) => {
      before('logs');
      any(id);
      return logsOf.get(id) ?? { console: 'booted\n', vmm: '' };
    },
    followLogs: (id, signal) => {
      before('followLogs');
      const sandbox = any(id);
      const vm = { logs: tails(id) } as unknown as Vm;
      return followLogs({ id, vm, info: () => sandbox.info }, sandboxes, systemClock, signal);
    },
    events: async function* events(id, options = {}) {
      before('events');
      const { after = 0, follow = true, signal = new AbortController().signal } = options;
      const { events: journal } = any(id);
      if (follow) yield* journal.read(after, signal);
      else yield* journal.since(after);
    },
  };
}
