import { describe, expect, it } from 'vitest';
import { decide, judgeSteps, type KvmStep, parseSteps } from './probe.ts';

const fast: KvmStep = { step: 'loop', instructionsPerSecond: 2.4e9 };
const through = (...steps: KvmStep[]): KvmStep[] => [{ step: 'start' }, { step: 'create' }, ...steps];

describe('judgeSteps', () => {
  it('judgeSteps: is usable only if every step succeeded', () => {
    const all = through(fast, { step: 'int3' }, { step: 'cmpxchg16b' }, { step: 'xrstor' }, { step: 'done' });
    expect(judgeSteps(all, 'exited').usable).toBe(true);
    for (let length = 0; length < all.length; length++) {
      expect(judgeSteps(all.slice(0, length), 'exited').usable).toBe(false);
      expect(judgeSteps(all.slice(0, length), 'timed-out').usable).toBe(false);
    }
  });
  it('judgeSteps: names the rate of a slow loop', () => {
    const steps = through({ step: 'loop', instructionsPerSecond: 2.7e6, error: 'slow' });
    expect(judgeSteps(steps, 'exited').reason).toContain('2.7 million instructions/s');
  });
  it('judgeSteps: names the step that hung, failed or ended the probe', () => {
    expect(judgeSteps(through(fast), 'timed-out').reason).toMatch(/"int3" did not return/);
    expect(judgeSteps(through(fast), 'exited').reason).toMatch(/"int3" ended the probe/);
    expect(judgeSteps(through(fast, { step: 'int3', error: 'KVM reason 17' }), 'exited').reason) //
      .toMatch(/int3 failed: KVM reason 17/);
    expect(judgeSteps([{ step: 'start' }, { step: 'create', error: 'errno 12' }], 'exited').reason) //
      .toMatch(/can't create a VM: errno 12/);
  });
});

describe('judgeSteps, for a slow host', () => {
  it('judgeSteps: a process that did not start says nothing about KVM', () => {
    const { usable, reason } = judgeSteps([], 'timed-out');
    expect(usable).toBe(false);
    expect(reason).toMatch(/did not start within 180 s, so the host is too busy to tell/);
    expect(reason).not.toMatch(/can't run Linux/);
  });
});

describe('parseSteps', () => {
  it('parseSteps: stops at garbage, at a step out of order and at an unfinished line', () => {
    const good = '{"step":"start"}\n{"step":"create"}\n{"step":"loop","instructionsPerSecond":1}\n';
    expect(parseSteps(good)).toHaveLength(3);
    expect(parseSteps(`${good}{"step":"xrstor"}\n{"step":"done"}\n`)).toHaveLength(3);
    expect(parseSteps(`${good}{"step":"int`)).toHaveLength(3);
    expect(parseSteps(`garbage\n${good}`)).toEqual([]);
    expect(parseSteps('{"step":"done"}\n')).toEqual([]);
  });
});

describe('decide', () => {
  const bad = { usable: false, reason: '/dev/kvm does not exist', steps: [] };
  it('decide: chooses kvm, else tcg with QEMU, else none, with the reason', () => {
    expect(decide({ usable: true, reason: 'native', steps: [] }, true).accelerator).toBe('kvm');
    expect(decide(bad, true)).toEqual({ accelerator: 'tcg', reason: '/dev/kvm does not exist' });
    expect(decide(bad, false).accelerator).toBe('none');
    expect(decide(bad, false).reason).toMatch(/does not exist, and QEMU is not installed/);
  });
});
