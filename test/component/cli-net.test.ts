/** `neurovisor net` beside a process that has sandboxes with a network, in namespaces of their own. */
import { execFile } from 'node:child_process';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import { ROOT } from '../support/cli.ts';
import { NamespacedProcess } from '../support/net-namespace.ts';

const FIXTURE = join(import.meta.dirname, '../fixtures/host-network.ts');
/** A namespace with its own network and /run. */
const OWN = ['unshare', '-n', '-m', 'sh', '-c', 'mount -t tmpfs none /run && exec "$@"', 'sh'];

let owner: NamespacedProcess;

beforeEach(() => {
  owner = new NamespacedProcess(OWN, FIXTURE);
});
afterEach(() => owner.kill());

const neurovisor = (...args: string[]) => neurovisorAs([], ...args);

/** @param before a wrapper for the command, for example `setpriv` with options */
function neurovisorAs(
  before: readonly string[],
  ...args: string[]
): Promise<{ status: number; stdout: string; stderr: string }> {
  const enter = ['-t', String(owner.pid), '-n', '-m', ...before, join(ROOT, 'neurovisor')];
  const env = { ...process.env, NO_COLOR: '1' };
  return new Promise((resolve) => {
    execFile('nsenter', [...enter, ...args], { env }, (error, stdout, stderr) => {
      resolve({ status: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

describe('net', () => {
  it('ls and inspect show networks of other processes', async () => {
    await owner.do('open', '');
    const [one, two] = [newSandboxId(), newSandboxId()];
    const destinations = [{ name: 'pypi.org', bytesMax: 2048 }];
    const limits = { bytesMax: 1000, connectionsMax: 7, destinations };
    const rules = { mode: 'allowlist', allow: ['pypi.org'], deny: ['192.0.2.1'] };
    await owner.do('lease', one, rules, { limits, bytesUsed: 400, destinationBytesUsed: { 'pypi.org': 1024 } });
    await owner.do('lease', two, { mode: 'none' });
    const listed = await neurovisor('net', 'ls', '-o', 'json');
    expect(JSON.parse(listed.stdout)).toEqual(
      expect.arrayContaining([
        {
          sandbox: one,
          interface: `nv-${one.slice(0, 8)}`,
          address: '10.201.0.2',
          gateway: '10.201.0.1',
          state: 'ok',
          pid: expect.any(Number),
          policy: { mode: 'allowlist', allow: ['pypi.org'], deny: ['192.0.2.1'] },
          limits,
          bytesLeft: 600,
          traffic: { packetsOut: 0, bytesOut: 0, packetsIn: 0, bytesIn: 0, refused: {}, bytesUsed: 400 },
          gatewayUse: {
            allowed: 0,
            refused: {},
            destinations: [{ name: 'pypi.org', bytesMax: 2048, bytesUsed: 1024 }],
          },
        },
        expect.objectContaining({ sandbox: two, address: '10.201.0.6' }),
      ]),
    );
    const text = await neurovisor('net', 'ls');
    expect(text.stdout).toMatch(/^SANDBOX +INTERFACE +ADDRESS +POLICY/);
    expect(text.stdout.trim().split('\n')).toHaveLength(3);
    const shown = await neurovisor('net', 'inspect', one.slice(0, 10));
    expect(shown.stdout).toMatch(/allow +pypi\.org/);
    expect(shown.stdout).toMatch(
      /limit +1000 B total, 600 B left\nlimit +7 connections\nlimit +2\.0 KiB with pypi\.org, 1\.0 KiB left/,
    );
    expect(await neurovisor('net', 'inspect', 'zzz')).toMatchObject({
      status: 2,
      stderr: expect.stringContaining('net ls'),
    });
    await owner.do('release', one);
    const rest = JSON.parse((await neurovisor('net', 'ls', '-o', 'json')).stdout);
    expect(rest).toEqual([expect.objectContaining({ sandbox: two, state: 'ok' })]);
  });

  it('doctor --clean removes leftovers of dead processes, and nothing else', async () => {
    const holder = owner.beside();
    const victim = new NamespacedProcess(['nsenter', '-t', String(owner.pid), '-n', '-m'], FIXTURE);
    const [own, dead] = [newSandboxId(), newSandboxId()];
    await owner.do('open', '');
    await owner.do('lease', own);
    await victim.do('open', '');
    await victim.do('lease', dead);
    const vmm = await victim.do<number>('handOver', dead);
    await victim.kill();
    const cleaned = await neurovisor('doctor', '--network', '--clean', '-o', 'json');
    expect(cleaned).toMatchObject({ status: 0, stderr: expect.stringContaining(dead) });
    const left = JSON.parse((await neurovisor('net', 'ls', '-o', 'json')).stdout);
    expect(left).toEqual([expect.objectContaining({ sandbox: own, state: 'ok' })]);
    process.kill(vmm, 'SIGKILL');
    await owner.do('release', own);
    await owner.do('close');
    await neurovisor('doctor', '--network', '--clean');
    expect(owner.run('nft', 'list', 'ruleset')).toBe('');
    await holder.kill();
  });

  it('doctor: accepts a capable host, and reports conflicting firewalls and addresses', async () => {
    const good = await neurovisor('doctor', '--network', '-o', 'json');
    const verdicts = (text: string) =>
      Object.fromEntries(
        (JSON.parse(text) as { name: string; verdict: string }[]).map((each) => [each.name, each.verdict]),
      );
    expect([good.status, verdicts(good.stdout)]).toEqual([
      0,
      {
        privileges: 'ok',
        'TAP device': 'ok',
        nft: 'ok',
        'packet filter': 'ok',
        kernel: 'ok',
        'flush guard': 'ok',
        'metadata XDP': 'ok',
        'latency probes': 'ok',
        forwarding: 'ok',
        'address pool': 'ok',
        resolver: expect.any(String),
        'other filters': 'ok',
      },
    ]);
    owner.run('ip', 'tuntap', 'add', 'dev', 'br0', 'mode', 'tap');
    owner.run('ip', 'address', 'add', '10.201.0.1/16', 'dev', 'br0');
    owner.run(
      'nft',
      'add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }; add chain ip filter DOCKER-USER',
    );
    const bad = await neurovisor('doctor', '--network', '-o', 'json');
    expect(bad.status).toBe(1);
    expect(verdicts(bad.stdout)).toMatchObject({ 'address pool': 'missing', 'other filters': 'limited' });
    const text = await neurovisor('doctor', '--network');
    expect(text.stdout).toContain('iptables -I DOCKER-USER -i nv-+ -j ACCEPT');
    expect(text.stdout).toContain('NEUROVISOR_NET_POOL');
  });

  it('without CAP_NET_ADMIN: names the missing capability once, without library output', async () => {
    const weak = ['setpriv', '--bounding-set=-all', '--inh-caps=-all'];
    const doctor = await neurovisorAs(weak, 'doctor', '--network');
    expect([doctor.status, doctor.stderr]).toEqual([1, '']);
    expect(doctor.stdout).toMatch(/packet filter +missing +read the packet filter: not permitted/);
    const list = await neurovisorAs(weak, 'net', 'ls');
    expect(list).toMatchObject({ status: 125, stdout: '' });
    expect(list.stderr).toContain('list each counter of table neurovisor: netlink: EPERM\n');
    expect(list.stderr).not.toContain('start the sandbox');
  });
});
