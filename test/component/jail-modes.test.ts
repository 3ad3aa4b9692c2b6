/** `--jail` on hosts that can jail, cannot, or can in part. */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { readConfig } from '../../src/config.ts';
import { openJail } from '../../src/jail/open.ts';
import { DEFAULT_UIDS } from '../../src/jail/user-ids.ts';
import { confine } from '../../src/runtime/jail.ts';
import { requiresCgroupV1 } from '../support/host-cgroup.ts';
import { requiresRoot } from '../support/requires.ts';

/** A cgroup v1 host, whose controllers can be unmounted one by one. */
const cgroupV1 = requiresCgroupV1('pids');
const QEMU = 'qemu-system-x86_64';

let dir: string;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-jail-'));
});
afterEach(() => rmSync(dir, { recursive: true }));

describe('confine', () => {
  const options = { home: { cacheDir: '' }, log: silentLog, binary: QEMU };
  it('openJail: names the package to install if bubblewrap is missing', async () => {
    const opening = openJail({
      cacheDir: join(dir, 'cache'),
      stateDir: join(dir, 'state'),
      searchPath: dir,
      programFiles: ['/bin/true'],
      probeArgs: [],
      filter: new Uint8Array(8),
      uids: DEFAULT_UIDS,
      deviceGid: null,
      log: silentLog,
    });
    await expect(opening).rejects.toMatchObject({
      code: 'jail_unavailable',
      remedy: expect.stringContaining('bubblewrap'),
    });
  });
  it('confine: off makes no jail, and says so', async () => {
    const none = await confine({ ...options, config: { jail: 'off', jailUids: null } });
    expect(none.description).toMatch(/^not jailed/);
    expect(none.gaps).toHaveLength(1);
  });
  it('confine: on a host without a jail, auto warns and enforce fails', async () => {
    const cacheDir = join(dir, 'cache');
    mkdirSync(cacheDir);
    symlinkSync(tmpdir(), join(cacheDir, 'jail'));
    const warnings: unknown[] = [];
    const log = { ...silentLog, warn: (...words: unknown[]) => void warnings.push(words) };
    const broken = { ...options, home: { cacheDir }, log };
    const auto = await confine({ ...broken, config: { jail: 'auto', jailUids: null } });
    expect(auto.description).toMatch(/^not jailed: .*symbolic link/);
    expect(warnings).toHaveLength(1);
    await expect(
      confine({ ...broken, config: { jail: 'enforce', jailUids: null } }),
    ).rejects.toMatchObject({ code: 'jail_unavailable', remedy: expect.any(String) });
  });
  const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');
  const GAPS = join(import.meta.dirname, '../fixtures/jail-gaps.ts');
  /** Runs the fixture on a host without these controllers. @returns the fixture's output */
  const without = (controllers: string, mode: string): Record<string, unknown> => {
    const script = `for name in ${controllers}; do umount -l $(findmnt -n -o TARGET -t cgroup,cgroup2 -O $name); done; exec "$@"`;
    const run = ['--mount', 'sh', '-ec', script, 'sh', process.execPath, GAPS, dir, mode];
    return JSON.parse(execFileSync('unshare', run, { encoding: 'utf8' }));
  };
  const NO_PIDS = 'no limit of pids: no control group of it can be made here';
  cgroupV1.it('confine: auto reports a gap once and keeps the other limits', () => {
    expect(without('pids', 'auto')).toEqual({
      description: expect.stringMatching(/limits of .*memory/),
      gaps: [NO_PIDS],
      warnings: [['the jail of VMMs is incomplete', { gap: NO_PIDS }]],
    });
  });
  cgroupV1.it('confine: a gap is a refusal under enforce', () => {
    expect(without('pids memory', 'enforce')).toEqual({
      code: 'jail_unavailable',
      cause: 'no limit of memory, pids: no control group of it can be made here',
      remedy: expect.stringMatching(/control groups.*NEUROVISOR_JAIL=auto/),
      why: expect.any(String),
      warnings: [],
    });
  });
  /** Hosts without any jail, and the message for each. Each command becomes the rest of its arguments. */
  const UNFIT = [
    [
      'no user namespaces',
      ['--user', '--map-root-user', 'sh', '-ec', 'echo 0 >/proc/sys/user/max_user_namespaces'],
      { why: /user\.max_user_namespaces is 0/, remedy: /sysctl -w user\.max_user_namespaces/ },
    ],
    [
      'no bubblewrap',
      ['--mount', 'sh', '-ec', 'mount --bind /dev/null "$(command -v bwrap)"'],
      { why: /could not find bwrap in PATH/, remedy: /apt-get install bubblewrap/ },
    ],
  ] as const;
  const on = (host: readonly string[], ...argv: string[]): string => {
    const [script = '', ...before] = [...host].reverse();
    const run = [...before.reverse(), `${script}; exec "$@"`, 'sh', process.execPath, ...argv];
    const env = { ...process.env, NEUROVISOR_HOME: dir };
    const { status, stdout, stderr } = spawnSync('unshare', run, { encoding: 'utf8', env });
    // `doctor` exits nonzero when something is missing.
    if (status === 0 || stdout !== '') return stdout;
    throw new Error(stderr);
  };
  requiresRoot().it.each(UNFIT)(
    'confine: names the fault and remedy of a host with %s',
    (_, host, { why, remedy }) => {
      const enforced = JSON.parse(on(host, GAPS, dir, 'enforce'));
      expect(enforced).toMatchObject({ code: 'jail_unavailable', warnings: [] });
      expect(enforced.why).toMatch(why);
      expect(enforced.remedy).toMatch(remedy);
      const auto = JSON.parse(on(host, GAPS, dir, 'auto'));
      expect(auto.description).toMatch(/^not jailed: /);
      expect(auto.description).toMatch(why);
      expect(auto.warnings).toEqual([
        [
          'VMMs are not jailed',
          { reason: expect.stringMatching(why), remedy: expect.stringMatching(remedy) },
        ],
      ]);
      const checks = JSON.parse(on(host, MAIN, 'doctor', '--security', '-o', 'json'));
      expect(checks).toContainEqual({
        name: 'jail',
        verdict: 'missing',
        detail: expect.stringMatching(why),
        remedy: expect.stringMatching(remedy),
      });
    },
  );
  it('readConfig: refuses unknown modes and invalid ranges', () => {
    expect(() => readConfig({ NEUROVISOR_JAIL: 'maybe' })).toThrow(/NEUROVISOR_JAIL/);
    expect(() => readConfig({ NEUROVISOR_JAIL_UIDS: '5' })).toThrow(/FIRST:COUNT/);
  });
});
