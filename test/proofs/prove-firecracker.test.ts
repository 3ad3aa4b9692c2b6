/** `neurovisor prove … --vmm firecracker`, with a real one. Needs root and gcc; no Linux guest. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { proveCaps } from '../../prove/jail/caps-proof.ts';
import { proveCgroup } from '../../prove/jail/cgroup-proof.ts';
import { FirecrackerVmms } from '../../prove/jail/firecracker-vmms.ts';
import { proveImage } from '../../prove/jail/image-proof.ts';
import { proveImageWithoutLinux } from '../../prove/jail/image-without-linux.ts';
import { FORBIDDEN, proveSeccomp } from '../../prove/jail/seccomp-proof.ts';
import type { Proof } from '../../prove/proof.ts';
import type { JailContext } from '../../prove/proof-runtime.ts';
import { type Config, readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { POLICY_DIR } from '../../src/host/runtime/jail.ts';
import { compileProfile } from '../../src/machine/jail/seccomp/compile.ts';
import { parseProfile } from '../../src/machine/jail/seccomp/profile.ts';
import { reachOf } from '../../tools/seccomp/reach.ts';
import { reachOfVmm } from '../../tools/seccomp/reach-vmm.ts';
import { requiresFirecrackerAsRoot } from '../support/firecracker.ts';

/** Hundreds of starts on a busy machine. */
const PATIENT = { timeout: 600_000 };
const IO_URING = /^io_uring_/;

requiresFirecrackerAsRoot().describe('prove --vmm firecracker', (files) => {
  const { firecracker, jailer } = files;
  let home: string;
  beforeEach(() => {
    home = mkdtempSync(join(tmpdir(), 'nv-home-'));
  });
  afterEach(() => rmSync(home, { recursive: true, force: true }));

  const context = (more: Partial<Config> = {}): JailContext => ({
    config: { ...readConfig({}), home, vmm: 'firecracker', firecracker, jailer, ...more },
    log: silentLog,
  });
  const failed = ({ tried }: Proof): string[] =>
    tried.filter(({ ok }) => !ok).map(({ what, seen }) => `${what}: ${seen}`);
  const jails = (): string[] => readdirSync(join(home, 'run/jail/firecracker'));

  it('a temporary directory on another file system than the home is no obstacle', PATIENT, async () => {
    const elsewhere = mkdtempSync('/dev/shm/nv-tmp-');
    vi.stubEnv('TMPDIR', elsewhere);
    try {
      expect(statSync(tmpdir()).dev).not.toBe(statSync(home).dev);
      await using vmms = await FirecrackerVmms.open(context());
      expect((await vmms.jailed()).pid).toBeGreaterThan(0);
    } finally {
      vi.unstubAllEnvs();
      rmSync(elsewhere, { recursive: true });
    }
    expect(readdirSync(join(home, 'run')).filter((name) => name !== 'jail')).toEqual([]);
  });

  it('proveSeccomp: every escape is refused on each thread, and none without a jail', PATIENT, async () => {
    const some = /^(execve|fork|clone3|ptrace|socket|io_uring|by the number)/;
    const ours = context({ firecrackerFilter: 'ours' });
    const proof = await proveSeccomp(
      ours,
      FORBIDDEN.filter(({ name }) => some.test(name)),
    );
    expect(failed(proof)).toEqual([]);
    expect(proof.holds).toBe(true);
    for (const thread of ['firecracker', 'fc_api', 'fc_vcpu 0']) {
      const what = `execve of its own program, by thread ${thread}`;
      expect(proof.tried.find((one) => one.what === what)?.seen).toBe('denied: exited 148');
    }
    expect(jails()).toEqual([]);
  });

  it('proveSeccomp: the launcher’s filter refuses what Firecracker’s own filters allow', PATIENT, async () => {
    const proof = await proveSeccomp(
      context(),
      FORBIDDEN.filter(({ name }) => IO_URING.test(name)),
    );
    expect(failed(proof)).toEqual([]);
    expect(proof.holds).toBe(true);
  });

  it('proveSeccomp: finds a call that the filters allow, on each thread', PATIENT, async () => {
    const close = { name: 'close', number: 3, args: [0xffff_ffff] };
    const proof = await proveSeccomp(context(), [close]);
    expect(proof.holds).toBe(false);
    expect(failed(proof).filter((line) => !line.startsWith('control'))).toEqual(
      ['firecracker', 'fc_api', 'fc_vcpu 0'].map((thread) => `close, by thread ${thread}: returned -9`),
    );
  });

  it.each([
    ['caps', proveCaps],
    ['cgroup', proveCgroup],
    ['image', proveImageWithoutLinux],
  ] as const)('%s holds, with its controls, and nothing is left', PATIENT, async (name, prove) => {
    const proof = await prove(context());
    expect(failed(proof)).toEqual([]);
    expect(proof).toMatchObject({ name, holds: true });
    expect(proof.tried.some(({ what }) => what.startsWith('control'))).toBe(true);
    expect(jails()).toEqual([]);
  });

  it('the image is the same after a hundred guests whose kernels write to it', PATIENT, async () => {
    const proof = await proveImageWithoutLinux({ ...context(), guests: 100 });
    expect(failed(proof)).toEqual([]);
    const seen = proof.tried.map(({ what, seen }) => `${what}: ${seen}`);
    expect(seen).toContain('the kernel of a guest writes to the device: refused 100 times');
    expect(seen.at(-1)).toMatch(/^its digest after 100 guests: /);
    expect(jails()).toEqual([]);
  });

  it('reachOfVmm: the kernel has the compiled filter on each thread', PATIENT, async () => {
    const threads = await reachOfVmm(context({ firecrackerFilter: 'ours' }));
    const text = readFileSync(join(POLICY_DIR, 'firecracker-x86_64.json'), 'utf8');
    const profile = parseProfile(text);
    const names = { firecracker: 'vmm', fc_api: 'api', 'fc_vcpu 0': 'vcpu' };
    expect(threads.map(({ thread }) => thread).sort()).toEqual(Object.keys(names).sort());
    for (const [thread, name] of Object.entries(names)) {
      const filter = profile.get(name);
      if (filter === undefined) throw new Error(name);
      const compiled = reachOf([compileProfile(filter, 'x86_64').program], 'x86_64');
      expect(threads.find((one) => one.thread === thread)).toMatchObject({ filters: 2, ...compiled });
    }
    const builtin = await reachOfVmm(context());
    expect(builtin.flatMap(({ always }) => always)).not.toContain('execve');
    expect(builtin.every(({ always }) => always.length > 10)).toBe(true);
    // What Firecracker's own filters refuse it never needs.
    for (const own of builtin) {
      const ours = threads.find(({ thread }) => thread === own.thread);
      const passes = [...own.always, ...own.conditional];
      const more = [...(ours?.always ?? []), ...(ours?.conditional ?? [])].filter((call) => !passes.includes(call));
      expect([own.thread, more]).toEqual([own.thread, []]);
    }
  });

  it('a case that cannot run is an error with its reason, never a proof', PATIENT, async () => {
    const older = join(home, 'firecracker');
    writeFileSync(older, "#!/bin/sh\necho 'Firecracker v1.16.0'\n", { mode: 0o755 });
    await expect(proveSeccomp(context({ firecracker: older }))).rejects.toMatchObject({
      code: 'no_world',
      cause: expect.objectContaining({ code: 'vmm_missing' }),
    });
    const none = context({ firecracker: join(home, 'none') });
    for (const prove of [proveSeccomp, proveCaps, proveCgroup, proveImage])
      await expect(prove(none)).rejects.toMatchObject({ code: 'no_world' });
  });
});
