/** TAPs, addresses, routes and neighbors against the kernel, in a namespace; `ip` is the independent check. */
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { newSandboxId } from '../../src/base/ids.ts';
import type { Link } from '../../src/egress/net/netlink/rtnetlink-link.ts';
import { NamespacedProcess } from '../support/net-namespace.ts';

const HOST_MAC = 'aa:fc:00:00:00:01';
const GUEST_MAC = 'aa:fc:00:00:00:02';

const tapName = (sandboxId: string): string => `nv-${sandboxId.slice(0, 8)}`;

let host: NamespacedProcess;
const others: NamespacedProcess[] = [];

beforeEach(() => {
  host = NamespacedProcess.inNewNamespace();
});

afterEach(async () => {
  for (const other of others.splice(0)) await other.kill();
  await host.kill();
});

function beside(): NamespacedProcess {
  const other = host.beside();
  others.push(other);
  return other;
}

/** Creates the network of a sandbox and sets it up. */
async function network(process = host, change: object = {}) {
  const sandboxId = newSandboxId();
  const name = tapName(sandboxId);
  const spec = { name, sandboxId, mac: HOST_MAC, mtu: 1400, ...change };
  const { linkIndex } = await process.do<{ linkIndex: number }>('open', spec);
  const address = { linkIndex, address: '10.201.0.1', prefixLength: 30 };
  await process.do('links', 'addAddress', address);
  await process.do('links', 'change', linkIndex, { up: true });
  await process.do('links', 'setNeighbor', linkIndex, '10.201.0.2', GUEST_MAC);
  const route = { destination: '10.9.0.0/16', gateway: '10.201.0.2', linkIndex };
  await process.do('links', 'addRoute', route);
  return { sandboxId, name, linkIndex, address, route };
}

describe('Links', () => {
  it('creates a network that ip reads back the same, without a child process', async () => {
    const before = await host.do<{ childFaults: number }>('holds');
    const { name, linkIndex, address, sandboxId } = await network();
    expect(await host.do('links', 'find', name)).toEqual({
      index: linkIndex,
      name,
      up: true,
      carrier: true,
      loopback: false,
      mtu: 1400,
      mac: HOST_MAC,
      alias: expect.stringMatching(new RegExp(`^neurovisor:${sandboxId}:\\d+\\.\\d+$`)),
      kind: 'tun',
    });
    expect(host.ip('link', 'show', name)).toEqual([
      expect.objectContaining({
        ifindex: linkIndex,
        mtu: 1400,
        address: HOST_MAC,
        ifalias: expect.stringContaining(`neurovisor:${sandboxId}:`),
        flags: expect.arrayContaining(['UP', 'LOWER_UP']),
        linkinfo: {
          info_kind: 'tun',
          info_data: expect.objectContaining({ type: 'tap', pi: false, vnet_hdr: true, persist: false }),
        },
      }),
    ]);

    expect(await host.do('links', 'addresses', linkIndex)).toEqual([address]);
    expect(host.ip('addr', 'show', name)).toMatchObject([
      { addr_info: [{ family: 'inet', local: '10.201.0.1', prefixlen: 30 }] },
    ]);

    const routes = [
      { destination: '10.9.0.0/16', gateway: '10.201.0.2' },
      { destination: '10.201.0.0/30', source: '10.201.0.1' },
    ];
    expect(await host.do('links', 'routes')).toEqual(
      routes.map((route) => ({ ...route, linkIndex, table: 254, type: 1, priority: 0 })),
    );
    expect(host.ip('-4', 'route', 'show')).toMatchObject([
      { dst: '10.9.0.0/16', gateway: '10.201.0.2', dev: name, protocol: 'static' },
      { dst: '10.201.0.0/30', dev: name, prefsrc: '10.201.0.1' },
    ]);
    const found = { gateway: '10.201.0.2', source: '10.201.0.1', linkIndex };
    expect(await host.do('links', 'routeTo', '10.9.1.2')).toMatchObject(found);
    expect(await host.do('links', 'routeTo', '192.0.2.1')).toBeNull();

    expect(host.ip('neigh', 'show', 'dev', name)).toEqual([
      expect.objectContaining({ dst: '10.201.0.2', lladdr: GUEST_MAC, state: ['PERMANENT'] }),
    ]);

    const after = await host.do<{ childFaults: number }>('holds');
    expect(after.childFaults).toBe(before.childFaults);
    // Positive control: a child process changes the count.
    await host.do('child');
    const withChild = await host.do<{ childFaults: number }>('holds');
    expect(withChild.childFaults).toBeGreaterThan(after.childFaults);
  });

  it('a frame to the guest has a virtio header and the MAC that we set; no ARP, no IPv6 before it', async () => {
    const { name } = await network();
    const frame = await host.do<string>('frame', name, '10.201.0.2');
    // struct virtio_net_hdr is 10 bytes, then Ethernet: to, from, IPv4.
    expect(frame.slice(20, 48)).toBe('aafc00000002' + 'aafc00000001' + '0800');
    expect(frame.slice(48 + 2 * 12, 48 + 2 * 20)).toBe('0ac90001' + '0ac90002');
    expect(frame.endsWith(Buffer.from('hello').toString('hex'))).toBe(true);
  });

  it('Links.remove: removes a link with its addresses and routes', async () => {
    const { name, linkIndex } = await network();
    await host.do('links', 'change', linkIndex, { up: false });
    expect(await host.do('links', 'find', linkIndex)).toMatchObject({ up: false, carrier: false });
    await host.do('links', 'remove', linkIndex);
    expect(await host.do('links', 'find', name)).toBeNull();
    expect(host.ip('-4', 'route', 'show')).toEqual([]);
    expect(host.ip('link', 'show')).toHaveLength((await baseline()).length);
  });

  it('closing the last descriptor removes a TAP with everything on it', async () => {
    const { name } = await network();
    await host.do('close', name);
    expect(host.ip('link', 'show')).toHaveLength((await baseline()).length);
    expect(host.ip('-4', 'route', 'show')).toEqual([]);
    expect(host.ip('neigh', 'show')).toEqual([]);
  });

  it('a child with the descriptor keeps the TAP, and its death removes it', async () => {
    const { name } = await network();
    expect(await host.do('heir', name)).toEqual({ carrier: true, after: null });
  });

  it('openTap: only the given user opens the TAP without capabilities, and sends through it', async () => {
    const user = { uid: 61_234, gid: 61_235 };
    const { name, linkIndex } = await network(host, { user, persistent: true });
    // Without an open descriptor, the TAP can be opened again.
    await host.do('close', name);
    // /dev/net/tun may belong to root; the check concerns the user that opens the link.
    const take = `
import fcntl, os, struct, sys
fd = os.open('/dev/net/tun', os.O_RDWR)
os.setgroups([])
os.setgid(int(sys.argv[2]))
os.setuid(int(sys.argv[1]))
fcntl.ioctl(fd, 0x400454ca, struct.pack('16sH22x', b'${name}', 0x2 | 0x1000 | 0x4000))
os.write(fd, bytes(10) + bytes(60))
`;
    const as = (uid: number, gid: number): string => host.run('python3', '-c', take, `${uid}`, `${gid}`);
    expect(() => as(user.uid + 9, user.gid)).toThrow(/Operation not permitted/);
    expect(as(user.uid, user.gid)).toBe('');
    const [{ stats64: stats }] = host.ip<{ stats64: { rx: { packets: number } } }>('-s', 'link', 'show', name) as [
      { stats64: { rx: { packets: number } } },
    ];
    expect(stats.rx.packets).toBe(1);
    await host.do('links', 'remove', linkIndex);
  });

  it('openTap: confines the link: no IPv6, no ARP for other addresses, no redirects', async () => {
    const { name } = await network();
    const setting = (path: string): string => host.run('cat', `/proc/sys/net/${path.replace('*', name)}`).trim();
    expect(setting('ipv6/conf/*/disable_ipv6')).toBe('1');
    expect(setting('ipv4/conf/*/arp_ignore')).toBe('1');
    expect(setting('ipv4/conf/*/rp_filter')).toBe('1');
    expect(setting('ipv4/conf/*/accept_redirects')).toBe('0');
    expect(setting('ipv4/conf/*/send_redirects')).toBe('0');
    expect(host.ip('-6', 'addr', 'show', name)).toEqual([]);
    // Positive control: any other link gets a link-local address.
    const { index } = await host.do<Link>('links', 'create', 'nv-bridge', 'bridge');
    await host.do('links', 'change', index, { up: true });
    const ipv6 = { linkIndex: index, address: 'fd00::1', prefixLength: 64 };
    await host.do('links', 'addAddress', ipv6);
    expect(await host.do('links', 'addresses', index)).toContainEqual(ipv6);
    expect(await host.do('links', 'routes', 'ipv6')).toContainEqual(
      expect.objectContaining({ destination: 'fd00::/64', linkIndex: index }),
    );
  });

  it('200 networks at once all exist, and nothing is left after removal', async () => {
    const before = await host.do<{ fds: number }>('holds');
    const links = (await baseline()).length;
    const made = await host.do('many', 200);
    expect(made).toEqual({ most: { links: links + 200, routes: 200 }, distinct: 200 });
    expect(host.ip('link', 'show')).toHaveLength(links);
    expect(host.ip('route', 'show')).toEqual([]);
    expect(host.ip('neigh', 'show')).toEqual([]);
    expect((await host.do<{ fds: number }>('holds')).fds).toBe(before.fds);
  });

  it('removeGroup: removes the links of a group at once, and no other', async () => {
    const names = ['nv-one', 'nv-two', 'nv-stays'];
    for (const [at, name] of names.entries()) {
      const { index } = await host.do<Link>('links', 'create', name, 'bridge');
      if (at < 2) await host.do('links', 'change', index, { group: 4242 });
    }
    await host.do('links', 'removeGroup', 4242);
    const found = await Promise.all(names.map((name) => host.do('links', 'find', name)));
    expect(found).toEqual([null, null, expect.objectContaining({ name: 'nv-stays' })]);
    // No link has group 4242, and group 0 has all other links of the host.
    for (const group of [4242, 0])
      expect(await host.refusal('links', 'removeGroup', group)).toMatchObject({
        code: expect.stringMatching(/not_found|not_permitted/),
      });
    expect(await host.do('links', 'find', 'nv-stays')).not.toBeNull();
  });

  it('kill -9: the kernel removes a TAP; a persistent one is found by its alias', async () => {
    const other = beside();
    const dying = await network(other);
    const staying = newSandboxId();
    const spec = { name: tapName(staying), sandboxId: staying, persistent: true };
    await other.do('open', spec);
    const alive = await host.do<{ running: boolean }[]>('owned');
    expect(alive.map(({ running }) => running)).toEqual([true, true]);
    host.run('ip', 'tuntap', 'add', 'nv-stranger', 'mode', 'tap');

    await other.kill();
    expect(await host.do('links', 'find', dying.name)).toBeNull();
    const owned = await host.do<{ running: boolean; link: Link; owner: object }[]>('owned');
    expect(owned).toMatchObject([{ running: false, link: { name: spec.name }, owner: { sandboxId: staying } }]);
    for (const { link } of owned) await host.do('links', 'remove', link.index);
    expect(await host.do('owned')).toEqual([]);
    expect(await host.do('links', 'find', 'nv-stranger')).not.toBeNull();
  });
});

/** The links of a fresh namespace: `lo` and those that this kernel adds. */
async function baseline(): Promise<object[]> {
  const fresh = NamespacedProcess.inNewNamespace();
  others.push(fresh);
  await fresh.do('holds');
  return fresh.ip('link', 'show');
}

describe('LinkError', () => {
  it('exists: names of TAPs and others, addresses, routes', async () => {
    const { name, address, route } = await network();
    const sandboxId = newSandboxId();
    const { fds } = await host.do<{ fds: number }>('holds');
    const exists = expect.objectContaining({ code: 'exists', remedy: expect.stringContaining('another name') });
    expect(await host.refusal('open', { name, sandboxId })).toEqual(exists);
    expect(await host.refusal('open', { name: 'lo', sandboxId })).toEqual(exists);
    // A TAP without an open descriptor: without IFF_TUN_EXCL, `open` would take it over.
    host.run('ip', 'tuntap', 'add', 'nv-stranger', 'mode', 'tap');
    expect(await host.refusal('open', { name: 'nv-stranger', sandboxId })).toEqual(exists);
    expect((await host.do<{ fds: number }>('holds')).fds).toBe(fds);
    expect(await host.refusal('links', 'addAddress', address)).toMatchObject({
      code: 'exists',
      message: expect.stringContaining('add address 10.201.0.1/30'),
      cause: expect.stringContaining('EEXIST'),
    });
    expect(await host.refusal('links', 'addRoute', route)).toEqual(exists);
    expect(await host.refusal('links', 'create', name, 'bridge')).toEqual(exists);
  });

  it('not_found, unreachable, unsupported, invalid', async () => {
    const { linkIndex, route } = await network();
    const code = async (...call: unknown[]) => (await host.refusal('links', ...call)).code;
    expect(await code('change', 9999, { up: true })).toBe('not_found');
    expect(await code('remove', 9999)).toBe('not_found');
    const lost = { ...route, destination: '10.77.0.0/16', gateway: '192.0.2.1' };
    expect(await code('addRoute', lost)).toBe('unreachable');
    expect(await code('create', 'nv-odd', 'nonesuch')).toBe('unsupported');
    expect(await code('change', linkIndex, { mtu: 1 })).toBe('invalid');
    expect(await code('change', linkIndex, { mac: '01:00:00:00:00:00' })).toBe('invalid');
    const named = (name: string) => host.refusal('open', { name, sandboxId: newSandboxId() });
    expect((await named('nv-%d')).code).toBe('invalid');
    expect((await named('nv-0123456789abc')).code).toBe('invalid');
  });

  it('not_permitted: without CAP_NET_ADMIN, with a remedy; reading works', async () => {
    const plain = new NamespacedProcess(['unshare', '-n', 'setpriv', '--bounding-set=-all']);
    others.push(plain);
    const refused = expect.objectContaining({
      code: 'not_permitted',
      remedy: expect.stringContaining('CAP_NET_ADMIN'),
      cause: expect.stringContaining('EPERM'),
    });
    const tap = { name: 'nv-plain', sandboxId: newSandboxId() };
    expect(await plain.refusal('open', tap)).toEqual(refused);
    expect(await plain.refusal('links', 'change', 1, { up: true })).toEqual(refused);
    expect(await plain.do('links', 'find', 'lo')).toMatchObject({ index: 1, loopback: true });
  });
});

describe('Forwarding', () => {
  let dir = '';
  const value = (): string => host.run('cat', '/proc/sys/net/ipv4/ip_forward').trim();
  const set = (name: string, to: string) => host.run('sh', '-c', 'echo "$1" > "/proc/sys/net/ipv4/$0"', name, to);
  const stateFiles = async () => (await readdir(dir)).filter((name) => name.endsWith('.json'));

  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'nv-forward-'));
    await host.do('holds');
    set('ip_forward', '0');
  });

  afterEach(async () => {
    await rm(dir, { recursive: true });
  });

  it('is on from the first acquire to the last release, and restores links', async () => {
    set('conf/lo/forwarding', '1');
    await host.do('forwarding', 'acquire', dir);
    await host.do('forwarding', 'acquire', dir);
    expect(value()).toBe('1');
    await host.do('forwarding', 'release', dir);
    expect(value()).toBe('1');
    await host.do('forwarding', 'release', dir);
    expect(value()).toBe('0');
    expect(host.run('cat', '/proc/sys/net/ipv4/conf/lo/forwarding').trim()).toBe('1');
    expect(host.run('cat', '/proc/sys/net/ipv4/conf/default/forwarding').trim()).toBe('0');
    expect(await stateFiles()).toEqual([]);
  });

  it.each(['0', '1'])('accept_redirects of all and forwarding of default stay %s', async (was) => {
    const settings = ['conf/all/accept_redirects', 'conf/default/forwarding'];
    for (const name of settings) set(name, was);
    await host.do('forwarding', 'acquire', dir);
    expect(value()).toBe('1');
    await host.do('forwarding', 'release', dir);
    for (const name of settings) {
      expect([name, host.run('cat', `/proc/sys/net/ipv4/${name}`).trim()]).toEqual([name, was]);
    }
  });

  it('on already: stays on, without a file', async () => {
    set('ip_forward', '1');
    await host.do('forwarding', 'acquire', dir);
    expect(await stateFiles()).toEqual([]);
    await host.do('forwarding', 'release', dir);
    expect(value()).toBe('1');
  });

  it('two processes: the last release restores', async () => {
    const other = beside();
    await host.do('forwarding', 'acquire', dir);
    await other.do('forwarding', 'acquire', dir);
    await host.do('forwarding', 'release', dir);
    expect(value()).toBe('1');
    await other.do('forwarding', 'release', dir);
    expect(value()).toBe('0');
  });

  it('kill -9: recover restores, unless another process needs it', async () => {
    const other = beside();
    await other.do('forwarding', 'acquire', dir);
    await host.do('forwarding', 'recover', dir);
    expect(value()).toBe('1');
    await other.kill();
    expect(value()).toBe('1');
    await host.do('forwarding', 'recover', dir);
    expect(value()).toBe('0');
    expect(await stateFiles()).toEqual([]);
  });

  it('kill -9: the next holder restores at its release', async () => {
    const other = beside();
    await other.do('forwarding', 'acquire', dir);
    await other.kill();
    await host.do('forwarding', 'acquire', dir);
    expect(value()).toBe('1');
    await host.do('forwarding', 'release', dir);
    expect(value()).toBe('0');
  });

  it('recover: ignores a damaged file and one of another boot', async () => {
    await host.do('forwarding', 'acquire', dir);
    const [name = ''] = await stateFiles();
    set('ip_forward', '1');
    const holders = [{ pid: 1, startTicks: '0', key: 'x' }];
    const kept = { forwardingLinks: [], acceptsRedirects: true, holders };
    const old = { version: 2, bootId: 'another', ...kept };
    for (const text of [JSON.stringify(old), '{"version":1', '[]', 'null', '']) {
      await writeFile(join(dir, name), text);
      await beside().do('forwarding', 'recover', dir);
      expect(value()).toBe('1');
    }
  });

  it('not_permitted: a process that may not write gets a remedy and leaves no file', async () => {
    const plain = new NamespacedProcess(['unshare', '-n', 'setpriv', '--bounding-set=-all']);
    others.push(plain);
    await plain.do('holds');
    plain.run('sh', '-c', 'echo 0 > /proc/sys/net/ipv4/ip_forward');
    expect(await plain.refusal('forwarding', 'acquire', dir)).toMatchObject({
      code: 'not_permitted',
      remedy: expect.stringContaining('CAP_NET_ADMIN'),
    });
    expect(await stateFiles()).toEqual([]);
  });
});
