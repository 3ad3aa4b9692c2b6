/**
 * The network of real guests, in namespaces with a private internet (`network-world.ts`): reachability,
 * addresses and cleanup.
 */
import { text } from 'node:stream/consumers';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { Daemon } from '../../src/cli/library/daemon.ts';
import type { CreateRequest, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import type { DaemonProcess } from '../support/daemon.ts';
import { ALLOWED, FORBIDDEN, METADATA, NetworkWorld } from '../support/network-world.ts';
import { exec, python } from '../support/vm.ts';

const ONLY_ALLOWED = { mode: 'allowlist', allow: [ALLOWED.name] } as const;
const SEEN = `${ALLOWED.name} at ${ALLOWED.address}`;
const WAIT = { interval: 50 };

let world: NetworkWorld;
let daemon: DaemonProcess;
let control: Daemon;
beforeAll(async () => {
  world = await NetworkWorld.create();
  ({ process: daemon, control } = await world.serve());
});
afterEach(async () => {
  const all = await control.list();
  for (const { id } of all) await control.remove(id);
  expect(await world.taps()).toEqual([]);
  const rules = await ruleset();
  expect(all.filter(({ id }) => rules.includes(id))).toEqual([]);
});
afterAll(async () => {
  const said = daemon?.stderr();
  await control?.[Symbol.asyncDispose]();
  await world?.[Symbol.asyncDispose]();
  // Last, so that a failure leaves no daemon.
  expect(said).toBe('');
});

/** As text: the JSON of nft 1.0.6 ends at a table that a process owns. */
const ruleset = (): Promise<string> => world.host.run('nft', 'list', 'ruleset');

const create = (request: CreateRequest = {}): Promise<SandboxInfo> =>
  control.create({ network: ONLY_ALLOWED, ...request });

/** What a GET of the guest's gives: the answer, an HTTP status, or the name of what failed. */
async function get(id: string, url: string): Promise<string> {
  const code = `
import socket, urllib.error, urllib.request
try: print(urllib.request.urlopen('${url}', timeout=2).read().decode().strip())
except urllib.error.HTTPError as error: print(error.code)
except urllib.error.URLError as error: print(type(error.reason).__name__)
`;
  return (await python(await control.guest(id), code)).stdout.trim();
}

async function sh(id: string, script: string): Promise<string> {
  return (await exec(await control.guest(id), ['sh', '-c', script])).stdout.trim();
}

/** Its card as the guest sees it. */
async function card(id: string): Promise<{ mac: string; address: string }> {
  const mac = await sh(id, 'cat /sys/class/net/eth0/address');
  const code = `
import fcntl, socket, struct
request = struct.pack('16s24x', b'eth0')
answer = fcntl.ioctl(socket.socket(socket.AF_INET, socket.SOCK_DGRAM), 0x8915, request)
print(socket.inet_ntoa(answer[20:24]))
`;
  return { mac, address: (await python(await control.guest(id), code)).stdout.trim() };
}

describe('network: what a guest reaches', () => {
  it('without a network: only the loopback, no resolver', async () => {
    const { id, network } = await create({ network: null });
    expect(network).toBeNull();
    expect(await sh(id, 'ls /sys/class/net; cat /etc/resolv.conf')).toBe('lo');
    expect(await get(id, `http://${ALLOWED.address}/`)).toBe('OSError');
  });

  it.each(['clone', 'boot'] as const)('%s: an allowed name is reached, and nothing else', async (how) => {
    const { id, origin, network } = await create({ boot: how === 'boot' });
    expect(origin).toBe(how);
    expect(network).toMatchObject({ mode: 'allowlist', allow: [ALLOWED.name], deny: [] });
    expect((await card(id)).address).toBe(network?.address);
    expect(await get(id, `http://${ALLOWED.name}/`)).toBe(SEEN);
    expect(await get(id, `http://${FORBIDDEN.name}/`)).toBe('gaierror');
    expect(await get(id, `http://${FORBIDDEN.address}/`)).toBe('403');
    // The host gets there by the same way.
    expect(await world.hostSees(METADATA)).toContain(METADATA);
    expect(await get(id, `http://${METADATA}/`)).toBe('TimeoutError');
    expect(await sh(id, 'cat /proc/net/if_inet6')).not.toContain('eth0');
  });

  it('an invalid rule is refused before anything starts, with the syntax of rules', async () => {
    const network = { mode: 'allowlist', allow: ['no such rule'] } as const;
    await expect(create({ network })).rejects.toMatchObject({
      code: 'spec_invalid',
      message: expect.stringContaining('no such rule'),
      remedy: expect.stringContaining('*.example.com'),
    });
  });
});

describe('network: run', () => {
  const code = `import urllib.request; print(urllib.request.urlopen('http://${ALLOWED.name}/').read())`;
  const run = ['run', '--no-daemon', '--allow-out', ALLOWED.name, '-c', code];

  it('run --allow-out: an allowed name is reached', async () => {
    const { status, stdout, stderr } = await world.command(run);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toContain(SEEN);
  });

  it('run without root: refused before anything starts, with reason and remedy', async () => {
    const unable = ['setpriv', '--bounding-set', '-net_admin', '--inh-caps', '-net_admin'];
    const { status, stdout, stderr } = await world.command(run, unable);
    expect({ status, stdout }).toEqual({ status: 125, stdout: '' });
    expect(stderr).toContain('could not set up the network of the sandbox');
    expect(stderr).toContain('root');
    const plain = await world.command(['run', '--no-daemon', '-c', 'print(1)'], unable);
    expect(plain).toMatchObject({ status: 0, stdout: '1\n' });
  });
});

describe('network: updates', () => {
  it('a new policy applies at once; none removes the card; a policy again adds it', async () => {
    const { id } = await create();
    expect(await get(id, `http://${ALLOWED.name}/`)).toBe(SEEN);
    const narrowed = { mode: 'allowlist', allow: [FORBIDDEN.name] } as const;
    expect((await control.update(id, { network: narrowed })).network?.allow).toEqual(narrowed.allow);
    expect(await get(id, `http://${ALLOWED.name}/`)).toBe('gaierror');
    expect(await get(id, `http://${FORBIDDEN.name}/`)).toContain(FORBIDDEN.address);

    expect((await control.update(id, { network: null })).network).toBeNull();
    expect(await sh(id, 'ls /sys/class/net; cat /etc/resolv.conf')).toBe('lo');
    expect(await world.taps()).toEqual([]);

    await control.update(id, { network: ONLY_ALLOWED });
    expect(await get(id, `http://${ALLOWED.name}/`)).toBe(SEEN);
  });
});

describe('network: limits', () => {
  it('an exhausted budget resets connections, also after a pause; a larger budget allows them again', async () => {
    const limited = { ...ONLY_ALLOWED, limits: { bytesMax: 20_000 } };
    const { id } = await create({ network: limited });
    const code = `
import urllib.request
for _ in range(1000): urllib.request.urlopen('http://${ALLOWED.name}/', timeout=60).read()
`;
    const { exitCode, stderr } = await python(await control.guest(id), code);
    expect(exitCode).toBe(1);
    // What fails first is a question for the name, or a connection; neither hangs.
    expect(stderr).toMatch(/Connection(Reset|Refused)|gaierror|RemoteDisconnected/);
    expect(await get(id, `http://${ALLOWED.address}/`)).toBe('ConnectionRefusedError');
    await control.pause(id, 'disk');
    expect((await control.resume(id)).network).toMatchObject({ limits: limited.limits });
    expect(await get(id, `http://${ALLOWED.address}/`)).toBe('ConnectionRefusedError');
    await control.update(id, { network: { ...ONLY_ALLOWED, limits: { bytesMax: 40_000 } } });
    expect(await get(id, `http://${ALLOWED.name}/`)).toBe(SEEN);
  });
});

describe('network: a port over the card', () => {
  it('it is reached through the daemon under any policy, and not by another program of the host', async () => {
    const { id, network } = await create({ network: { mode: 'none' } });
    const guest = await control.guest(id);
    const server = await guest.exec({ argv: ['python3', '-m', 'http.server', '3000'] });
    const ask = async (): Promise<string> => {
      const stream = await control.openPort(id, 3000);
      stream.end('GET / HTTP/1.0\r\n\r\n');
      return await text(stream);
    };
    await expect.poll(() => ask().catch(String), WAIT).toContain('200 OK');
    const curl = ['curl', '--silent', '--max-time', '3', `http://${network?.address}:3000/`];
    await expect(world.host.run(...curl)).rejects.toThrow();
    await expect(control.openPort(id, 3001)).rejects.toMatchObject({ code: 'port_unreachable' });
    const waiting = await control.openPort(id, 3000);
    await control.update(id, { network: null });
    expect(await text(waiting).catch(() => '')).toBe('');
    await expect(control.openPort(id, 3000)).rejects.toMatchObject({ code: 'network_unavailable' });
    server.kill();
  });
});

describe('network: copies', () => {
  it('clone, forks, snapshot: each has its own address and MAC, and its source keeps its own', async () => {
    const made = await create();
    const before = await card(made.id);
    const forks = await control.fork(made.id, { count: 2 });
    const snapshot = await control.snapshot(made.id);
    const from = await create({ snapshot: snapshot.id });
    const other = await create();
    const forked = forks.map((fork) => (fork.ok ? fork.sandbox.id : fork.message));
    const ids = [made.id, ...forked, from.id, other.id];
    const cards = await Promise.all(ids.map(card));
    expect(cards[0]).toEqual(before);
    expect(new Set(cards.map(({ mac }) => mac)).size).toBe(ids.length);
    expect(new Set(cards.map(({ address }) => address)).size).toBe(ids.length);
    for (const id of ids) expect(await get(id, `http://${ALLOWED.name}/`)).toBe(SEEN);
    // What is not asked for is not there: a snapshot has none of its maker's.
    const plain = await create({ snapshot: snapshot.id, network: null });
    expect(await sh(plain.id, 'ls /sys/class/net; cat /etc/resolv.conf')).toBe('lo');
  });

  it('a pool member has no network until it is claimed', async () => {
    await control.setPool({ min: 2, max: 2 });
    try {
      await expect.poll(async () => (await control.pools())[0]?.ready, WAIT).toBe(2);
      expect(await world.taps()).toEqual([]);
      const [one, two] = await Promise.all([create(), create()]);
      expect([one.origin, two.origin]).toEqual(['pool', 'pool']);
      const [a, b] = [await card(one.id), await card(two.id)];
      expect(a.mac).not.toBe(b.mac);
      expect([a.address, b.address]).toEqual([one.network?.address, two.network?.address]);
      expect(await get(one.id, `http://${ALLOWED.name}/`)).toBe(SEEN);
      expect(await get(two.id, `http://${FORBIDDEN.name}/`)).toBe('gaierror');
    } finally {
      await control.setPool({ min: 0, max: 0 });
    }
  });
});

describe('network: pauses and ends', () => {
  it.each(['disk', 'memory'] as const)('resumed from a pause to %s: an allowed name is reached again', async (to) => {
    const { id } = await create();
    expect((await control.pause(id, to)).network?.mode).toBe('allowlist');
    expect(await world.taps()).toHaveLength(to === 'disk' ? 0 : 1);
    const { network } = await control.resume(id);
    expect((await card(id)).address).toBe(network?.address);
    expect(await get(id, `http://${ALLOWED.name}/`)).toBe(SEEN);
  });

  it('after kill -9, the next daemon removes leftovers and assigns networks again', async () => {
    const lost = await create();
    expect(await world.taps()).toHaveLength(1);
    expect(await ruleset()).toContain(lost.id);
    daemon.kill('SIGKILL');
    await daemon.ended;
    await control[Symbol.asyncDispose]();
    ({ process: daemon, control } = await world.serve());
    const { id } = await create();
    expect(await world.taps()).toHaveLength(1);
    expect(await ruleset()).not.toContain(lost.id);
    expect(await get(id, `http://${ALLOWED.name}/`)).toBe(SEEN);
  });
});
