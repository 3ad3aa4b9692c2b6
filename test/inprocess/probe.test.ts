import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { probeAccelerator, runChild } from '../../src/machine/vmm/accelerator/probe.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-probe-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

/** A script with the given body that replaces the child. */
function child(body: string): string[] {
  const path = join(dir, 'child.mjs');
  writeFileSync(path, body);
  return [process.execPath, path];
}
const says = (...steps: string[]): string =>
  steps.map((step) => `console.log('${JSON.stringify({ step })}');`).join('');
const cache = (): string => join(dir, 'cache', 'accelerator.json');

/** `/dev/null` opens, so that the child decides. */
const probe = (argv: string[], more: object = {}) =>
  probeAccelerator({ cacheDir: join(dir, 'cache'), kvmDevice: '/dev/null', child: argv, ...more });

describe('probeAccelerator', () => {
  it('probeAccelerator: answers for this machine, and the second time from the cache', async () => {
    const first = await probeAccelerator({ cacheDir: dir });
    expect(['kvm', 'tcg', 'none']).toContain(first.accelerator);
    expect(first.reason).not.toBe('');
    const second = await probeAccelerator({ cacheDir: dir });
    expect(second.accelerator).toBe(first.accelerator);
    expect(second.details.kvm).toEqual(first.details.kvm);
    // Without access to the device nothing is measured, so nothing is cached.
    expect(second.details.cached).toBe(first.details.kvm.steps.length > 0);
  });

  it('probeAccelerator: kvm when the child went through all steps', async () => {
    const all = says('start', 'create', 'loop', 'int3', 'cmpxchg16b', 'xrstor', 'done');
    expect((await probe(child(all))).accelerator).toBe('kvm');
  });

  it('probeAccelerator: a KVM_RUN that never returns is killed and named', async () => {
    const verdict = await probe(child(`${says('start', 'create', 'loop')} for (;;);`));
    expect(verdict.accelerator).not.toBe('kvm');
    expect(verdict.reason).toMatch(/"int3" did not return/);
    // The next start tries again: a busy machine may have been the reason.
    expect(existsSync(cache())).toBe(false);
  });

  it('probeAccelerator: does not cache a missing device', async () => {
    const verdict = await probe([], { kvmDevice: join(dir, 'no-kvm') });
    expect(verdict.reason).toContain('does not exist');
    expect(existsSync(cache())).toBe(false);
  });

  it('probeAccelerator: none without KVM and QEMU', async () => {
    const verdict = await probe([], { kvmDevice: join(dir, 'x'), qemuBinary: join(dir, 'no-qemu') });
    expect(verdict.accelerator).toBe('none');
    expect(verdict.details.qemu).toBeNull();
  });

  it('probeAccelerator: ignores an unreadable cache and one of another boot', async () => {
    const usable = child(says('start', 'create', 'loop', 'int3', 'cmpxchg16b', 'xrstor', 'done'));
    await probe(usable);
    expect((await probe(usable)).details.cached).toBe(true);
    const written = readFileSync(cache(), 'utf8');
    for (const bad of ['{"version":2', written.replace(/"bootId": "[^"]+"/, '"bootId": "other"')]) {
      writeFileSync(cache(), bad);
      expect((await probe(usable)).details.cached).toBe(false);
    }
  });
});

describe('runChild', () => {
  it('runChild: a program that can not be run has no steps', async () => {
    expect(await runChild([join(dir, 'nothing')])).toEqual({ steps: [], ended: 'exited' });
  });
  it('runChild: the time until the child starts does not count for its first step', async () => {
    const all = ['start', 'create', 'loop', 'int3', 'cmpxchg16b', 'xrstor', 'done'];
    const slow = child(`await new Promise((go) => setTimeout(go, 1500)); ${says(...all)}`);
    const { steps, ended } = await runChild(slow, { startMsMax: 60_000, stepMsMax: 1000 });
    expect([steps.length, ended]).toEqual([all.length, 'exited']);
    const never = child('setInterval(() => undefined, 1000)');
    expect(await runChild(never, { startMsMax: 1000 })).toEqual({ steps: [], ended: 'timed-out' });
  });
  it('runChild: a flood on standard output is truncated', async () => {
    const flood = `${says('start', 'create')} for (let i = 0; i < 1e5; i++) console.log('x'.repeat(100));`;
    expect((await runChild(child(flood))).steps).toEqual([{ step: 'start' }, { step: 'create' }]);
  });
});
