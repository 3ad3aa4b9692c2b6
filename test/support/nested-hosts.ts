/** Users and hosts of other kinds, in the nested host: no root, no control groups, a service of systemd. */
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { NestedVmm, NestedWorld } from './nested.ts';

const USER = 'agent';
const USER_HOME = '/data/user';
const RUN_MS_MAX = 600_000;
const HELLO = `
import os, platform
print('hello from', os.getuid(), platform.release())
`;

/** Body of a `describe`. */
export function nestedHosts(world: NestedWorld): void {
  const asUser = (command: string): string =>
    `setpriv --reuid ${USER} --regid ${USER} --init-groups \
       env HOME=/home/${USER} NEUROVISOR_HOME=${USER_HOME} NODE_COMPILE_CACHE=${USER_HOME}/cache/node ${command}`;
  const doctor = async (within: string): Promise<string> =>
    await world.sh(`${within} node src/cli/main.ts doctor || [ $? = 1 ]`, RUN_MS_MAX);

  beforeAll(async () => {
    await world.sh(`
      useradd --create-home --groups kvm ${USER}
      mkdir ${USER_HOME}
      cp -a --sparse=always $NEUROVISOR_HOME/cache ${USER_HOME}
      # Node.js keeps one of each user.
      for dir in ${USER_HOME}/cache/node/*-0; do mv $dir \${dir%0}$(id -u ${USER}); done
      chown -R ${USER}: ${USER_HOME}
      cat > /tmp/hello.py << 'END'${HELLO}END`);
  });
  afterAll(() => world.sh(`rm -r ${USER_HOME}`));

  it.each<NestedVmm>(['firecracker', 'qemu'])(
    'an ordinary user: run ends with the output of a guest in %s, jailed but for what only root can do',
    async (vmm) => {
      const script = `
        export NEUROVISOR_UPSTREAM=${world.upstreamUrl}
        ${asUser(`node src/cli/main.ts run --vmm ${vmm} --boot /tmp/hello.py < /dev/null 2> /tmp/run.err`)}
        echo "status $?"; cat /tmp/run.err`;
      const [hello, status, ...errors] = (await world.sh(script, RUN_MS_MAX)).trim().split('\n');
      expect(hello).toMatch(/^hello from 1000 6\.12\.\d+-neurovisor$/);
      expect(status).toBe('status 0');
      expect(errors).toEqual([
        expect.stringMatching(/the jail of VMMs is incomplete.*only root .* their own/),
        expect.stringMatching(/no limit of memory, pids: .* control group .*Delegate=yes/),
      ]);
    },
  );

  it.each<NestedVmm>(['firecracker', 'qemu'])(
    'a service of an ordinary user with Delegate=yes: the VMM of %s has all limits, and stop leaves nothing',
    async (vmm) => {
      const daemon = await world.serve(vmm, { user: USER, home: USER_HOME });
      const { control } = daemon;
      const { id, accelerator } = await control.create({ memoryMib: 256, diskMib: 64, boot: true });
      expect(accelerator).toBe('kvm');
      const { group, threads } = await world.vmmOf(id);
      expect(group).toMatchObject({ 'memory.swap.max': '0', 'cpu.max': '200000 100000' });
      expect(Number(group['memory.max'])).toBeGreaterThan(256 * 2 ** 20);
      for (const { Uid, Seccomp, CapEff } of threads)
        expect([Uid?.[1], Seccomp, CapEff]).toEqual(['1000', ['2'], ['0000000000000000']]);
      expect(await daemon.stop()).toEqual([]);
    },
  );

  it('an ordinary user without rights for /dev/kvm: firecracker is refused, with the group to join', async () => {
    const script = `
      gpasswd --delete ${USER} kvm > /dev/null
      ${asUser('node src/cli/main.ts run --vmm firecracker --boot /tmp/hello.py < /dev/null 2>&1')}
      echo "status $?"
      usermod --append --groups kvm ${USER}`;
    const output = await world.sh(script, RUN_MS_MAX);
    expect(output).toMatch(
      /\/dev\/kvm can't be opened by this user\nfix: Add this user to its group, kvm: sudo usermod/,
    );
    expect(output).toMatch(/\nstatus 125\n$/);
  });

  it.each([
    ['read-only', 'mount -o remount,bind,ro /sys/fs/cgroup', /is on a read-only mount/],
    ['not mounted', 'umount --lazy /sys/fs/cgroup', /no mount shows the control group/],
  ])('control groups %s: doctor says so, and what to do', async (_, change, said) => {
    expect(await doctor(`unshare --mount sh -c '${change}; exec "$@"' sh`)).toMatch(said);
  });
}
