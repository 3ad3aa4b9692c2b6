/** Building a template with the fake driver: the order of the steps, and cleanup after every failure. */
import { mkdtempSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { FakeClock, systemClock } from '../../src/base/clock.ts';
import { GuestError } from '../../src/machine/guest/errors.ts';
import type { ExecSpec, Guest, GuestEvent, Process } from '../../src/machine/guest/link.ts';
import type { DiskTrouble, VmmDriver, VmSpec } from '../../src/machine/vmm/driver.ts';
import type { CardLease } from '../../src/sandbox/contract/parts.ts';
import type { TemplateSpec } from '../../src/sandbox/contract/spec.ts';
import { buildTemplate, type TemplateParts } from '../../src/sandbox/start/template-builder.ts';
import { createFakeDriver } from '../support/fake-vmm/driver.ts';

import { events, fakeProcess, IMPORTED, parts, type Step, useTemplateWorld, world } from '../support/template-world.ts';

useTemplateWorld();

/** A driver whose VM stops on a full disk as soon as it runs. */
function onFullDisk(given: TemplateParts): TemplateParts {
  const start: VmmDriver['start'] = async (spec, signal) => {
    const vm = await given.driver.start(spec, signal);
    const trouble = { kind: 'full', path: '/run/disk.ext4', freeBytes: 0 } as const;
    return Object.assign(vm, {
      onDiskTrouble: (listener: (trouble: DiskTrouble) => void) => {
        setImmediate(() => listener(trouble));
        return () => undefined;
      },
    });
  };
  return { ...given, driver: { ...given.driver, start } };
}

/** With a VMM that plugs no cards, and a network. */
function onNetwork(driver: VmmDriver): (given: TemplateParts) => TemplateParts {
  const lease = {
    tapFd: 9,
    guest: { mac: 'aa:fc:00:00:00:01' },
    confirmHandover: async () => void world.steps.push('handed over'),
    release: async () => void world.steps.push('card released'),
    gatewayUse: () => ({ allowed: 0, refused: {}, destinations: [] }),
  } as unknown as CardLease;
  return (given) => ({
    ...given,
    driver,
    leaseNetwork: async (_id, { policy }) => {
      world.steps.push(`lease ${policy.mode}`);
      return lease;
    },
  });
}

function build(
  fail: Step | null,
  told = events(IMPORTED),
  signal = new AbortController().signal,
  change = (given: TemplateParts): TemplateParts => given,
  more: Partial<TemplateSpec> = {},
) {
  const out = mkdtempSync(join(world.root, 'out-'));
  const paths = { ram: join(out, 'ram'), state: join(out, 'state'), disk: join(out, 'disk') };
  const spec = { cpus: 1, memoryMib: 128, diskMib: 16, warm: ['json'], ...more };
  const environmentPath = join(world.root, 'environment');
  writeFileSync(environmentPath, '');
  const options = { spec, environmentPath, paths, signal, report: () => {} };
  const built = buildTemplate(change(parts(fail, told)), options);
  return { built, out };
}

/** Guest memory files that this process has open. */
function guestMemories(): string[] {
  const targets = readdirSync('/proc/self/fd').map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch (error) {
      return String(error); // The directory's own descriptor.
    }
  });
  return targets.filter((target) => target.includes('guest-ram'));
}

/** Requires that no memory is in use and no file is left. */
function expectNothingLeft(): void {
  expect(readdirSync(join(world.root, 'run'))).toEqual([]);
  expect(guestMemories()).toEqual([]);
  if (world.steps.includes('model') && world.steps.includes('listener')) expect(world.steps).toContain('model closed');
}

/** Lets ten minutes pass, or less if `work` is over. */
async function passUntil(clock: FakeClock, work: Promise<unknown>): Promise<void> {
  let isOver = false;
  void Promise.allSettled([work]).then(() => {
    isOver = true;
  });
  for (let passed = 0; passed < 600 && !isOver; passed += 1) {
    await new Promise((resolve) => setTimeout(resolve, 2));
    clock.advance(1000);
  }
  expect(isOver).toBe(true);
}

describe('buildTemplate', () => {
  it('saves RAM, state and disk of a guest that was warmed under a throw-away identity', async () => {
    const { built, out } = build(null);
    const { snapshot, modules } = await built;
    expect(readdirSync(out).sort()).toEqual(['disk', 'ram', 'state']);
    expect(snapshot).toMatchObject({ machine: expect.stringContaining('fake'), statePath: join(out, 'state') });
    expect(modules).toEqual(IMPORTED);
    expect(world.identity).toMatchObject({ warm: ['json'], rehearse: true, env: { A: 'b' } });
    expect(world.identity?.hostname).toMatch(/^template-/);
    expect(world.steps.indexOf('script')).toBeLessThan(world.steps.indexOf('keepMemory'));
    expectNothingLeft();
    expect(world.steps.slice(-3)).toEqual(['cid released', 'listener closed', 'model closed']);
  });

  it('a template with a card has one that passes nothing, which its guest does not configure', async () => {
    const driver = createFakeDriver({ clock: systemClock, hotplugNic: false });
    const { built } = build(null, events(IMPORTED), undefined, onNetwork(driver), { card: true });
    const { snapshot } = await built;
    expect(world.identity).not.toHaveProperty('network');
    expect(world.steps).toContain('lease none');
    const [vm, end] = [world.steps.indexOf('handed over'), world.steps.indexOf('card released')];
    expect([vm > world.steps.indexOf('lease none'), vm < world.steps.indexOf('script')]).toEqual([true, true]);
    expect(end).toBeGreaterThan(world.steps.indexOf('keepDisk'));
    expectNothingLeft();
    expect(readFileSync(snapshot.statePath, 'utf8')).toContain('with a card');
  });

  it('a template with a card needs a network of the host', async () => {
    const { built } = build(null, events(IMPORTED), undefined, undefined, { card: true });
    await expect(built).rejects.toMatchObject({ code: 'network_unavailable' });
    expectNothingLeft();
  });

  it.each(['memory', 'model', 'listener', 'hello', 'script', 'keepMemory', 'keepDisk'] as const)(
    'a failing %s is reported, and nothing is left behind',
    async (fail) => {
      await expect(build(fail).built).rejects.toMatchObject({ code: 'template_failed' });
      expectNothingLeft();
    },
  );

  it('an error names the module that cannot be imported', async () => {
    const wrong = [{ name: 'json', durationMs: 1, error: 'ImportError: no json' }];
    await expect(build(null, events(wrong)).built).rejects.toMatchObject({
      code: 'spec_invalid',
      cause: 'module json: ImportError: no json',
    });
    expectNothingLeft();
  });

  const PRESSURE = {
    ...({ type: 'pressure', memoryBytes: 6e7, highEvents: 9 } as const),
    limitBytes: 7e7,
    some: 40,
    full: 10,
  };
  it.each<[string, readonly GuestEvent[]]>([
    ['kills the importing process', [{ type: 'oom', oomKills: 1, detail: 'python3', victim: null }]],
    ['has repeated memory pressure', Array.from({ length: 6 }, () => PRESSURE)],
  ])('a guest that %s has too little memory, and the build fails at once', async (_what, told) => {
    await expect(build(null, told).built).rejects.toMatchObject({
      code: 'spec_invalid',
      cause: '128 MiB of memory is too little for its modules: json',
      remedy: expect.stringContaining('--memory'),
    });
    expectNothingLeft();
  });

  it('brief memory pressure in the guest does not fail the build', async () => {
    const told = [...Array.from({ length: 5 }, () => PRESSURE), ...events(IMPORTED)];
    expect(await build(null, told).built).toMatchObject({ modules: IMPORTED });
  });

  describe('with packages', () => {
    const requirements = ['pandas>=2', 'rich'];
    const told = events([
      ...IMPORTED,
      { name: 'pandas', durationMs: 2, error: null },
      { name: 'broken', durationMs: 2, error: 'ImportError' },
    ]);

    it('a first VM installs them into the disk and ends; the next imports their modules', async () => {
      const { built, out } = build(null, told, undefined, undefined, { requirements });
      const { modules } = await built;
      expect(modules.map(({ name }) => name)).toEqual(['json', 'pandas']);
      const [first, second] = world.identities;
      expect(first).toMatchObject({ warm: [], env: { A: 'b', PIP_INDEX_URL: expect.any(String) } });
      expect(second).toMatchObject({ warm: ['json', 'pandas', 'broken'], env: { A: 'b' } });
      expect(second?.env).not.toHaveProperty('PIP_INDEX_URL');
      const order = ['gateway pip', 'wrote pandas>=2\nrich\n', 'pip', 'list pandas rich'];
      expect(world.steps.filter((step) => order.includes(step))).toEqual(order);
      expect(world.steps.indexOf('gateway closed')).toBeLessThan(world.steps.indexOf('script'));
      expect(readFileSync(join(out, 'disk'), 'utf8')).toBe('disk');
      expectNothingLeft();
    });

    it('pip’s last output explains why it failed', async () => {
      const { built } = build('pip', told, undefined, undefined, { requirements });
      await expect(built).rejects.toMatchObject({
        code: 'spec_invalid',
        cause: 'why',
        remedy: expect.stringContaining('pip config list'),
      });
      expect(world.steps).not.toContain('script');
      expectNothingLeft();
    });

    it('a host without packages says so', async () => {
      const change = ({ attachPackages: _, ...given }: TemplateParts) => given as TemplateParts;
      const { built } = build(null, told, undefined, change, { requirements });
      await expect(built).rejects.toMatchObject({ cause: 'this host serves no packages' });
      expectNothingLeft();
    });
  });

  it('a start command runs after the first script and before the guest is saved', async () => {
    const start = { command: 'serve', ready: 'probe', readyTimeoutMs: 5_000 };
    const { built } = build(null, events(IMPORTED), undefined, undefined, { start });
    await built;
    const after = world.steps.slice(world.steps.indexOf('script') + 1);
    expect(after.slice(0, 4)).toEqual(['make log', 'start', 'ready', 'keepMemory']);
    expectNothingLeft();
  });

  it('a start command that exits fails the build, and nothing is left behind', async () => {
    const start = { command: 'exit 3', ready: 'probe', readyTimeoutMs: 5_000 };
    const { built } = build(null, events(IMPORTED), undefined, undefined, { start });
    await expect(built).rejects.toMatchObject({
      code: 'spec_invalid',
      cause: expect.stringContaining('it ended with status 3'),
    });
    expectNothingLeft();
  });

  describe('an image', () => {
    const environment = {
      image: 'app:1',
      imageDigest: 'sha256:1',
      digest: 'sha256:2',
      user: 'app',
      workdir: '/srv',
      env: { PATH: '/opt/bin', A: 'of the image' },
      entrypoint: [],
      cmd: [],
      exposedPorts: [],
      stopSignal: null,
    };
    let specs: VmSpec[] = [];
    /** @param python result of the search for a Python */
    const watched =
      (python: (spec: ExecSpec) => Promise<Process>) =>
      (given: TemplateParts, script?: () => Promise<Process>): TemplateParts => {
        specs = [];
        const start: VmmDriver['start'] = (spec, signal) => {
          specs.push(spec);
          return given.driver.start(spec, signal);
        };
        const listenForGuest: TemplateParts['listenForGuest'] = async (...of) => {
          const listener = await given.listenForGuest(...of);
          const ready = async (signal: AbortSignal): Promise<Guest> => {
            const guest = await listener.ready(signal);
            const exec = (spec: ExecSpec): Promise<Process> =>
              spec.argv.includes('-S') ? python(spec) : guest.exec(spec);
            return { ...guest, exec, python: script ?? guest.python } as Guest;
          };
          return { ...listener, ready };
        };
        return { ...given, driver: { ...given.driver, start }, listenForGuest };
      };
    const has = watched(async () => fakeProcess(0));

    it('its guest has its disk, its variables below ours, its user and directory', async () => {
      const { built } = build(null, events(IMPORTED), undefined, has, { environment });
      expect(await built).toMatchObject({ hasPython: true, warm: ['json'] });
      expect(specs[0]).toMatchObject({
        bootArgs: ['init_on_free=1', 'neurovisor_environment=/dev/vdc'],
        disks: [{ path: join(world.root, 'environment'), access: 'read' }],
      });
      expect(world.identity).toMatchObject({
        env: { PATH: '/opt/bin', A: 'b' },
        environment: { user: 'app', workdir: '/srv' },
      });
      expectNothingLeft();
    });

    const none = new GuestError('not_found', 'program "python3" was not found');
    it.each([
      ['no Python', watched(() => Promise.reject(none))],
      ['an old Python', watched(async () => fakeProcess(1))],
    ])('with %s: nothing is imported, and no script runs', async (_what, change) => {
      const { built } = build(null, [], undefined, change, { environment, warm: [] });
      expect(await built).toMatchObject({ hasPython: false, modules: [] });
      expect(world.steps).not.toContain('script');
      expectNothingLeft();
    });

    it('a Python that never ends fails the build', async () => {
      const never = { ...fakeProcess(0), exit: new Promise<never>(() => undefined) };
      const late = {
        ...fakeProcess(0),
        exit: fakeProcess(0).exit.then((exit) => ({ ...exit, exitCode: null, timedOut: true })),
      };
      const change = watched(async ({ timeoutMs }) => (timeoutMs === undefined ? never : late));
      const { built } = build(null, [], undefined, change, { environment, warm: [] });
      await expect(built).rejects.toMatchObject({
        code: 'template_failed',
        cause: expect.stringContaining('did not end within'),
      });
      expectNothingLeft();
    });

    it.each([{ warm: ['json'] }, { requirements: ['rich'], warm: [] }])(
      'without Python, modules and packages are refused: %j',
      async (more) => {
        const change = watched(() => Promise.reject(none));
        const { built } = build(null, [], undefined, change, { environment, ...more });
        await expect(built).rejects.toMatchObject({
          code: 'spec_invalid',
          cause: expect.stringContaining('no Python 3.10 or newer'),
        });
        expect(world.steps).not.toContain('pip');
        expectNothingLeft();
      },
    );

    it('packages: both VMs have the disk', async () => {
      const requirements = ['rich'];
      const { built } = build(null, events(IMPORTED), undefined, has, { environment, requirements });
      await built;
      expect(specs.map(({ disks }) => disks?.length)).toEqual([1, 1]);
      expect(world.steps).toContain('pip');
    });

    const silent = () => new Promise<never>(() => undefined);
    it.each([
      ['search for Python', watched(silent)],
      ['first script', (given: TemplateParts) => has(given, silent)],
    ])('a guest that does not answer to the %s fails the build', async (_what, change) => {
      const clock = new FakeClock();
      const onClock = (given: TemplateParts): TemplateParts => change({ ...given, clock });
      const { built } = build(null, events([]), undefined, onClock, { environment, warm: [] });
      const failed = expect(built).rejects.toMatchObject({
        code: 'template_failed',
        cause: expect.stringContaining('did not answer'),
      });
      await passUntil(clock, built);
      await failed;
      expectNothingLeft();
    });

    it.each([
      ['ends with a failure', async () => fakeProcess(1)],
      ['is not started by its Python', () => Promise.reject(new GuestError('guest_failed', 'no'))],
    ])('a first script that %s: the template is kept, or each sandbox would build it anew', async (_what, python) => {
      const change = (given: TemplateParts) => has(given, python);
      const { built } = build(null, events([]), undefined, change, { environment, warm: [] });
      expect(await built).toMatchObject({ hasPython: true, modules: [] });
      expectNothingLeft();
    });

    it('a guest that fails to answer does not count as one without Python', async () => {
      const lost = new GuestError('connection_lost', 'the guest is gone');
      const change = watched(() => Promise.reject(lost));
      const { built } = build(null, [], undefined, change, { environment, warm: [] });
      await expect(built).rejects.toMatchObject({ code: 'template_failed', cause: lost });
    });
  });

  it('a full host file system is reported at once', async () => {
    const { built } = build(null, [], undefined, onFullDisk);
    await expect(built).rejects.toMatchObject({
      code: 'template_failed',
      cause: expect.stringContaining('/run/disk.ext4 is full (0 bytes are free)'),
      remedy: expect.stringContaining('free space'),
    });
    expectNothingLeft();
  });

  it('a canceled build is reported as canceled, and nothing is left behind', async () => {
    const aborter = new AbortController();
    aborter.abort();
    const { built } = build(null, events(IMPORTED), aborter.signal);
    await expect(built).rejects.toMatchObject({ code: 'cancelled' });
    expectNothingLeft();
  });
});
