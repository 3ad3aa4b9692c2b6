/** `--jail` on hosts that can jail, cannot, or can in part. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, chownSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { readConfig } from '../../src/base/config.ts';
import { silentLog } from '../../src/base/log.ts';
import { confine } from '../../src/host/runtime/jail.ts';
import { namespaceRemedy, openJail } from '../../src/machine/jail/open.ts';
import { DEFAULT_UIDS } from '../../src/machine/jail/user-ids.ts';
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
  it('confine: on a host without a jail, auto and enforce fail and name the way without', async () => {
    const cacheDir = join(dir, 'cache');
    mkdirSync(cacheDir);
    symlinkSync(tmpdir(), join(cacheDir, 'jail'));
    const warnings: unknown[] = [];
    const log = { ...silentLog, warn: (...words: unknown[]) => void warnings.push(words) };
    const broken = { ...options, home: { cacheDir }, log };
    for (const mode of ['auto', 'enforce', 'log'] as const) {
      await expect(confine({ ...broken, config: { jail: mode, jailUids: null } })).rejects.toMatchObject({
        code: 'jail_unavailable',
        cause: { cause: 'it is a symbolic link' },
        remedy: expect.stringContaining('--jail off'),
      });
    }
    expect(warnings).toEqual([]);
  });
  const MAIN = join(import.meta.dirname, '../../src/cli/main.ts');
  const GAPS = join(import.meta.dirname, '../fixtures/jail-gaps.ts');
  /** Runs the fixture on a host without these controllers. @returns the fixture's output */
  const without = (controllers: string, mode: string): Record<string, unknown> => {
    const script = `for name in ${controllers}; do umount -l $(findmnt -n -o TARGET -t cgroup,cgroup2 -O $name); done; exec "$@"`;
    const run = ['--mount', 'sh', '-ec', script, 'sh', process.execPath, GAPS, dir, mode];
    return JSON.parse(execFileSync('unshare', run, { encoding: 'utf8' }));
  };
  const NO_PIDS = 'no limit of pids: no mount of control groups has pids';
  cgroupV1.it('confine: auto reports a gap once and keeps the other limits', () => {
    expect(without('pids', 'auto')).toEqual({
      description: expect.stringMatching(/limits of .*memory/),
      gaps: [NO_PIDS],
      warnings: [
        [
          'the jail of VMMs is incomplete',
          { gap: NO_PIDS, remedy: expect.stringMatching(/^mount it \(mount -t cgroup -o pids/) },
        ],
      ],
    });
  });
  cgroupV1.it('confine: a gap is a refusal under enforce', () => {
    expect(without('pids memory', 'enforce')).toEqual({
      code: 'jail_unavailable',
      remedy: expect.stringMatching(/mount -t cgroup -o memory.*NEUROVISOR_JAIL=auto/),
      why: expect.stringMatching(/no limit of memory, pids: no mount of control groups has memory/),
      warnings: [],
    });
  });
  /** Hosts whose VMMs can have no limits. Each command becomes the rest of its arguments. */
  const UNLIMITED = [
    [
      'read-only control groups',
      'for at in $(findmnt -n -o TARGET -t cgroup,cgroup2); do mount -o remount,bind,ro "$at"; done',
      { why: /is on a read-only mount/, remedy: /mount -o remount,rw \/sys\/fs\/cgroup/ },
    ],
    [
      'no control groups',
      'for at in $(findmnt -n -o TARGET -t cgroup,cgroup2); do umount -l "$at"; done',
      { why: /no mount shows the control group of this process/, remedy: /mount -t cgroup2 none/ },
    ],
  ] as const;
  requiresRoot().it.each(UNLIMITED)(
    'confine: on a host with %s, auto warns, enforce refuses, and doctor names the remedy',
    (_, script, { why, remedy }) => {
      const host = ['--mount', 'sh', '-ec', script];
      const auto = JSON.parse(on(host, GAPS, dir, 'auto'));
      expect(auto.description).toMatch(/^jailed: /);
      expect(auto.description).not.toMatch(/limits of/);
      expect(auto.gaps).toEqual([expect.stringMatching(why)]);
      expect(auto.gaps[0]).toMatch(/^no limit of memory, pids: /);
      expect(auto.warnings).toEqual([
        ['the jail of VMMs is incomplete', { gap: auto.gaps[0], remedy: expect.stringMatching(remedy) }],
      ]);
      const refused = JSON.parse(on(host, GAPS, dir, 'enforce'));
      expect(refused).toMatchObject({ code: 'jail_unavailable', warnings: [] });
      expect(refused.why).toMatch(why);
      expect(refused.remedy).toMatch(remedy);
      for (const more of [[], ['--security']]) {
        const checks = JSON.parse(on(host, MAIN, 'doctor', ...more, '-o', 'json'));
        expect(checks).toContainEqual({
          name: 'jail',
          verdict: 'limited',
          detail: expect.stringMatching(why),
          remedy: expect.stringMatching(remedy),
        });
      }
    },
  );
  requiresRoot().it('confine: an ordinary user without a delegated group gets a remedy', () => {
    const user = ['--reuid', '1500', '--regid', '1500', '--clear-groups', '--'];
    chmodSync(dir, 0o755);
    const cacheDir = join(dir, 'ordinary');
    mkdirSync(cacheDir);
    chownSync(cacheDir, 1500, 1500);
    const run = [...user, process.execPath, GAPS, cacheDir, 'auto'];
    const { gaps, warnings } = JSON.parse(execFileSync('setpriv', run, { encoding: 'utf8' }));
    expect(gaps).toEqual([
      expect.stringMatching(/^VMMs run as this user/),
      expect.stringMatching(/^no limit of memory, pids: this user may not change the control group/),
    ]);
    expect(warnings[1][1].remedy).toMatch(/Delegate=yes/);
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
  requiresRoot().it.each(UNFIT)('confine: names the fault and remedy of a host with %s', (_, host, { why, remedy }) => {
    for (const mode of ['enforce', 'auto']) {
      const refused = JSON.parse(on(host, GAPS, dir, mode));
      expect(refused).toMatchObject({ code: 'jail_unavailable', warnings: [] });
      expect(refused.why).toMatch(why);
      expect(refused.remedy).toMatch(remedy);
      expect(refused.remedy).toMatch(/without a jail: --jail off/);
    }
    const checks = JSON.parse(on(host, MAIN, 'doctor', '--security', '-o', 'json'));
    expect(checks).toContainEqual({
      name: 'jail',
      verdict: 'missing',
      detail: expect.stringMatching(why),
      remedy: expect.stringMatching(remedy),
    });
  });
  requiresRoot().it('run: a host that denies user namespaces is refused before the set-up', () => {
    expect(() => on(UNFIT[0][1], MAIN, 'run', '-c', '1')).toThrow(/user\.max_user_namespaces is 0/);
    const made = readdirSync(dir, { recursive: true }).map(String);
    // The verdict of the probe is no set-up.
    expect(made.filter((path) => /^cache\/(?!accelerator\.json$)/.test(path))).toEqual([]);
  });
  requiresRoot().it('checkNamespaces: asks bubblewrap as an ordinary user', () => {
    const check = join(import.meta.dirname, '../../src/machine/jail/open.ts');
    const script = `import { checkNamespaces } from ${JSON.stringify(check)};
      await checkNamespaces(process.argv[1]).then(() => console.log('ok'), (error) => console.log(error.code, error.cause));`;
    const as = (path: string): string => {
      const user = ['--reuid', '1500', '--regid', '1500', '--clear-groups', '--'];
      const node = [process.execPath, '--input-type=module', '-e', script, '--', path];
      return execFileSync('setpriv', [...user, ...node], { encoding: 'utf8' }).trim();
    };
    chmodSync(dir, 0o755);
    expect(as('/usr/bin')).toBe('ok');
    const fake = '#!/bin/sh\necho "setting up uid map: denied" >&2; exit 1\n';
    writeFileSync(join(dir, 'bwrap'), fake, { mode: 0o755 });
    expect(as(dir)).toBe('jail_unavailable setting up uid map: denied');
  });
  it.each([
    [{ '/proc/sys/kernel/unprivileged_userns_clone': '0' }, 'kernel.unprivileged_userns_clone=1'],
    [{ '/proc/sys/kernel/apparmor_restrict_unprivileged_userns': '1' }, 'AppArmor profile'],
    [{}, 'user.max_user_namespaces'],
  ])('namespaceRemedy: names the setting that denies (%j)', (settings: Record<string, string>, named) => {
    const remedy = namespaceRemedy((path) => settings[path] ?? null);
    expect(remedy).toContain(named);
    expect(remedy).toContain('run as root');
  });
  it('readConfig: refuses unknown modes and invalid ranges', () => {
    expect(() => readConfig({ NEUROVISOR_JAIL: 'maybe' })).toThrow(/NEUROVISOR_JAIL/);
    expect(() => readConfig({ NEUROVISOR_JAIL_UIDS: '5' })).toThrow(/FIRST:COUNT/);
  });
});
