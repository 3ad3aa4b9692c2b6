/** Broken Firecracker binaries, and a /dev/kvm that is missing, inaccessible or removed. */
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { judgeFirecracker } from '../../src/host/runtime/vmm-choice.ts';
import { createFirecrackerDriver } from '../../src/machine/vmm/firecracker/driver.ts';
import { readFirecrackerVersion } from '../../src/machine/vmm/firecracker/installation.ts';
import { spawnVmm } from '../../src/machine/vmm/firecracker/process/spawn.ts';
import { ask, VmBench } from '../support/driver-parity.ts';
import { requiresFirecrackerAsRoot } from '../support/firecracker.ts';

let dir: string;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nv-broken-'));
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

describe('readFirecrackerVersion', () => {
  const file = (content: string, mode = 0o755): string => {
    const path = join(dir, 'firecracker');
    writeFileSync(path, content);
    chmodSync(path, mode);
    return path;
  };
  const MEGABYTE = "head -c 1000000 /dev/zero | tr '\\0' x";

  it.each([
    ['is not executable', '#!/bin/sh\n', 0o644, 'it is not executable'],
    ['is a text', 'echo Firecracker v1.16.1', 0o755, 'it is not a program'],
    ['is empty', '', 0o755, 'it is not a program'],
    ['is a damaged program', '\x7fELF\x02', 0o755, /^it can't be run|^it ended with status|^it was k/],
    ['needs another program', '#!/none\n', 0o755, "it can't be run (ENOENT)"],
    ['fails', "#!/bin/sh\nprintf 'no\\033[2J such\\nmore' >&2; exit 3", 0o755, 'status 3: no?[2J such'],
    ['fails without a word', '#!/bin/sh\nexit 1', 0o755, 'it ended with status 1'],
    ['crashes', '#!/bin/sh\nkill -SEGV $$', 0o755, 'it was killed by SIGSEGV'],
    ['prints a megabyte', `#!/bin/sh\n${MEGABYTE}`, 0o755, 'it printed more than 64 KiB'],
    ['complains at length', `#!/bin/sh\n${MEGABYTE} >&2; exit 1`, 0o755, 'more than 64 KiB'],
    ['says nothing', '#!/bin/sh\n', 0o755, 'its output has no version'],
  ])('a binary that %s is refused with the reason', async (_, content, mode, reason) => {
    const { version, problem } = await judgeFirecracker(file(content, mode));
    expect(version).toBeNull();
    if (typeof reason === 'string') expect(problem).toContain(reason);
    else expect(problem).toMatch(reason);
    expect(problem?.length).toBeLessThan(300);
  });

  it('a binary that does not answer is killed', async () => {
    const path = file('#!/bin/sh\nexec sleep 1000');
    const reading = readFirecrackerVersion(path, 100);
    await expect(reading).rejects.toMatchObject({
      code: 'vmm_missing',
      cause: 'it did not answer --version within 100 ms',
      remedy: expect.stringContaining('1.16.1'),
    });
  });

  it('a directory in its place is refused', async () => {
    mkdirSync(join(dir, 'firecracker'));
    const { problem } = await judgeFirecracker(join(dir, 'firecracker'));
    expect(problem).toBe('it is not a program');
  });
});

requiresFirecrackerAsRoot().describe('/dev/kvm is removed', (files) => {
  it('running VMs continue, and the next start fails with the reason and the remedy', async () => {
    const gone = join(dir, 'kvm');
    let isGone = false;
    const driver = await createFirecrackerDriver({
      binary: files.firecracker,
      clock: systemClock,
      log: silentLog,
      kvmDevice: gone,
      spawn: (argv, stdio) => spawnVmm(isGone ? [...WITHOUT_KVM, ...argv] : argv, stdio),
    });
    const bench = new VmBench(driver, files);
    try {
      const vm = await bench.boot();
      isGone = true;
      const spec = bench.spec();
      await expect(bench.start(spec)).rejects.toMatchObject({
        code: 'vmm_start_failed',
        message: `the VM could not be started: ${gone} does not exist`,
        remedy: expect.stringMatching(/modprobe.*Running VMs are not affected/),
      });
      expect(await ask(vm, 'PRINT still here')).toBe('done');
      isGone = false;
      expect((await bench.boot()).isAlive()).toBe(true);
    } finally {
      await bench.close();
    }
  });
});

/** The rest of a command sees a /dev with only what Firecracker needs besides KVM. */
const WITHOUT_KVM = [
  'unshare',
  '--mount',
  'sh',
  '-c',
  'mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9 && exec "$@"',
  'sh',
];
