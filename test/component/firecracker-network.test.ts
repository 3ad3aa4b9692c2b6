/** The network of sandboxes on Firecracker, as the runtime starts them. Needs root; all in namespaces of its own. */
import { mkdtempSync, readlinkSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { udpFrame } from '../../prove/frames.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { ANCHOR_PREFIX } from '../../src/egress/net/xdp/anchor.ts';
import type { FirecrackerConfig } from '../../src/host/runtime/firecracker/jail.ts';
import { startTicksOf } from '../../src/sys/process-start.ts';
import { requiresFirecrackerAsRoot } from '../support/firecracker.ts';
import { Namespace, type Peer } from '../support/namespaces.ts';
import { NamespacedProcess } from '../support/net-namespace.ts';

const FIXTURE = join(import.meta.dirname, '../fixtures/firecracker-network.ts');
const PATIENT = { timeout: 30_000 };
const ALLOWED = '93.184.216.34';
const OTHER = '93.184.216.99';
const METADATA = '169.254.169.254';
const POLICY = { mode: 'allowlist', allow: [ALLOWED], deny: [], limits: {} };
/** Offset of the frame behind the virtio-net header. */
const FRAME_AT = 10;

interface Started {
  readonly mac: string;
  readonly address: string;
  readonly gateway: string;
  readonly gatewayMac: string;
  readonly pid: number;
}

interface Traffic {
  readonly packetsIn: number;
  readonly refused: Readonly<Record<string, number>>;
}

requiresFirecrackerAsRoot().describe('Firecracker with a network', (files) => {
  const usual: FirecrackerConfig = {
    jail: 'enforce',
    jailUids: null,
    firecracker: files.firecracker,
    jailer: files.jailer,
    firecrackerFilter: 'builtin',
  };
  let dir: string;
  let host: NamespacedProcess;
  let internet: Peer;
  const undo: (() => unknown)[] = [];
  beforeEach(async () => {
    dir = mkdtempSync(join(tmpdir(), 'nv-fcnet-'));
    undo.push(() => rmSync(dir, { recursive: true, force: true }));
    host = NamespacedProcess.inNewNamespace(FIXTURE);
    undo.push(() => host.kill());
    const outside = await Namespace.create();
    undo.push(() => outside[Symbol.asyncDispose]());
    internet = await joinInternet(outside);
  });
  afterEach(async () => {
    for (const each of undo.splice(0).reverse()) await each();
  });

  /** 198.18.0.2, and the addresses behind it, which answer datagrams on port 9999. */
  async function joinInternet(outside: Namespace): Promise<Peer> {
    const peer = ['peer', 'name', 'eth0', 'netns', `${outside.pid}`];
    host.run('ip', 'link', 'add', 'up0', 'type', 'veth', ...peer);
    host.run('ip', 'address', 'add', '198.18.0.1/24', 'dev', 'up0');
    for (const link of ['lo', 'up0']) host.run('ip', 'link', 'set', link, 'up');
    await outside.run('ip', 'address', 'add', '198.18.0.2/24', 'dev', 'eth0');
    await outside.run('ip', 'link', 'set', 'eth0', 'up');
    host.run('ip', 'route', 'add', 'default', 'via', '198.18.0.2');
    const served = await outside.peer();
    for (const address of [ALLOWED, OTHER, METADATA]) {
      await outside.run('ip', 'address', 'add', `${address}/32`, 'dev', 'lo');
      await served.serve('udp', address, 9999);
    }
    return served;
  }

  const open = (more: Partial<FirecrackerConfig> = {}, by = host): Promise<string> =>
    by.do('open', { dir, config: { ...usual, ...more }, ...files });
  const start = (id: string, policy: object = POLICY): Promise<Started> => host.do<Started>('start', id, policy);
  const ask = (id: string, command: string): Promise<string> => host.do('ask', id, command);
  const links = (): string[] => host.ip<{ ifname: string }>('link').map(({ ifname }) => ifname);
  const taps = (): string[] => links().filter((name) => name.startsWith('nv-') && !name.startsWith(ANCHOR_PREFIX));
  const ruleset = (): string => host.run('nft', 'list', 'ruleset');

  /** Sends a datagram from the guest's card. */
  async function send(
    id: string,
    guest: Started,
    to: string,
    more: { from?: string; fromMac?: string; text?: string } = {},
  ): Promise<void> {
    const { from = guest.address, fromMac = guest.mac, text = 'hello' } = more;
    const frame = udpFrame({ fromMac, toMac: guest.gatewayMac, from, to, port: 9999, text });
    const hex = frame.subarray(FRAME_AT).toString('hex');
    expect(await ask(id, `SEND ${hex}`)).toBe('done');
  }

  const arrived = (text: string): boolean => internet.arrivals.some((one) => one.text === text);

  /** Requires that a datagram reaches the internet and its answer the guest. */
  async function expectReached(id: string, guest: Started, text: string): Promise<void> {
    await send(id, guest, ALLOWED, { text });
    await expect.poll(() => arrived(text), PATIENT).toBe(true);
    const [to, from] = [hexOf(guest.mac, ':', 16), hexOf(ALLOWED, '.', 10)];
    // Ethernet's destination, then IPv4's source and destination (RFC 791, section 3.1).
    const answer = new RegExp(`^${to}.{40}${from}${hexOf(guest.address, '.', 10)}`);
    await expect.poll(() => ask(id, 'INFO last-frame'), PATIENT).toMatch(answer);
  }

  it.each([
    { jail: 'enforce', firecrackerFilter: 'builtin' },
    { jail: 'enforce', firecrackerFilter: 'ours' },
    { jail: 'off', firecrackerFilter: 'builtin' },
  ] as const)('start: lets out only what the policy allows ($jail, $firecrackerFilter)', async (config) => {
    await open(config);
    const id = newSandboxId();
    const guest = await start(id);
    expect(await ask(id, 'INFO mac')).toBe(guest.mac.replaceAll(':', ''));
    await expectReached(id, guest, 'allowed');
    await send(id, guest, OTHER, { text: 'other' });
    await send(id, guest, METADATA, { text: 'metadata' });
    await send(id, guest, ALLOWED, { text: 'address', from: '10.201.0.77' });
    await send(id, guest, ALLOWED, { text: 'mac', fromMac: 'aa:fc:00:00:00:99' });
    // Datagrams keep their order, so the earlier ones were dropped once this one arrives.
    await expectReached(id, guest, 'last');
    for (const text of ['other', 'metadata', 'address', 'mac']) expect(arrived(text)).toBe(false);
    const traffic = await host.do<Traffic>('traffic', id);
    expect(traffic.refused).toMatchObject({ metadata: 1, spoofed: 2 });
    expect(traffic.packetsIn).toBeGreaterThanOrEqual(2);
    await host.do('setPolicy', id, { ...POLICY, allow: [OTHER] });
    await send(id, guest, ALLOWED, { text: 'no more' });
    await send(id, guest, OTHER, { text: 'from now on' });
    await expect.poll(() => arrived('from now on'), PATIENT).toBe(true);
    expect(arrived('no more')).toBe(false);
    await host.do('end', id);
    expect(taps()).toEqual([]);
    expect(ruleset()).not.toContain(id);
  });

  it('start: the VMM has a network namespace of its own; its leased TAP stays on the host', async () => {
    await open();
    const id = newSandboxId();
    const guest = await start(id);
    const [tap = ''] = taps();
    const inside = (...command: string[]): string => host.run('nsenter', '-t', `${guest.pid}`, '-n', ...command);
    expect(readlinkSync(`/proc/${guest.pid}/ns/net`)).not.toBe(readlinkSync(`/proc/${host.pid}/ns/net`));
    expect(inside('ip', '-o', 'link')).not.toMatch(/nv-|UP,/);
    expect(inside('ip', 'route', 'show', 'table', 'all')).toBe('');
    expect(host.ip('addr', 'show', tap)).toMatchObject([
      {
        address: guest.gatewayMac,
        flags: expect.arrayContaining(['UP', 'LOWER_UP']),
        ifalias: expect.stringContaining(`neurovisor:${id}:`),
        addr_info: [{ local: guest.gateway, prefixlen: 30 }],
      },
    ]);
    expect(host.ip('neigh', 'show', 'dev', tap)).toMatchObject([
      { dst: guest.address, lladdr: guest.mac, state: ['PERMANENT'] },
    ]);
    expect(host.run('ip', '-d', 'link', 'show', tap)).toMatch(/xdpgeneric/);
    for (const [name, value] of [
      ['ipv6/conf/*/disable_ipv6', '1'],
      ['ipv4/conf/*/rp_filter', '1'],
      ['ipv4/conf/*/arp_ignore', '1'],
    ] as const) {
      const path = `/proc/sys/net/${name.replace('*', tap)}`;
      expect(host.run('cat', path).trim(), path).toBe(value);
    }
  });

  it('start: two VMs have a TAP and an address each, and release them at their end', async () => {
    await open();
    const before = await host.do<number>('holds');
    const ids = [newSandboxId(), newSandboxId()];
    const guests = await host.do<Started[]>('startAll', ids, POLICY);
    expect(new Set(guests.map(({ address }) => address)).size).toBe(2);
    expect(taps()).toHaveLength(2);
    for (const [n, id] of ids.entries()) {
      const guest = guests[n];
      if (guest !== undefined) await expectReached(id, guest, `of ${id}`);
    }
    for (const id of ids) await host.do('end', id);
    expect(taps()).toEqual([]);
    await host.do('close');
    expect(await host.do<number>('holds')).toBeLessThanOrEqual(before);
    expect(links()).toEqual(['lo', 'up0']);
  });

  it('start: a snapshot with a NIC starts with the TAP, address and MAC of its new lease', async () => {
    await open();
    const parent = newSandboxId();
    const before = await start(parent);
    await host.do('save', parent);
    await host.do('goOn', parent);
    await expectReached(parent, before, 'the parent goes on');
    const fork = newSandboxId();
    const guest = await host.do<Started>('startFrom', fork, parent, POLICY);
    expect([guest.mac, guest.address]).not.toEqual([before.mac, before.address]);
    expect(taps()).toHaveLength(2);
    // The guest's old address has no owner now; the agent sets the new lease's.
    await send(fork, guest, ALLOWED, { text: 'old', from: before.address, fromMac: before.mac });
    await expectReached(fork, guest, 'the fork');
    expect(arrived('old')).toBe(false);
    expect((await host.do<Traffic>('traffic', fork)).refused).toMatchObject({ spoofed: 1 });
    await expectReached(parent, before, 'the parent still');
    await host.do('end', parent);
    const again = await host.do<Started>('startFrom', parent, parent, POLICY);
    expect(again.mac).toBe(before.mac);
    await expectReached(parent, again, 'paused and resumed');
  });

  it('start: clones of a template whose card passed nothing have their own cards, open only as bound', async () => {
    await open();
    const none = { mode: 'none' };
    const template = newSandboxId();
    await host.do('start', template, none);
    await host.do('save', template);
    await host.do('end', template);
    expect(taps()).toEqual([]);
    const [one, two, member] = [newSandboxId(), newSandboxId(), newSandboxId()];
    const guests = await host.do<Started[]>('startAllFrom', [one, two], template, POLICY);
    const [first, second] = guests as [Started, Started];
    expect(first.address).not.toBe(second.address);
    expect(first.mac).not.toBe(second.mac);
    await expectReached(one, first, 'the first clone');
    await expectReached(two, second, 'the second clone');
    await send(one, first, ALLOWED, { text: 'stolen', from: second.address, fromMac: second.mac });
    const waiting = await host.do<Started>('startFrom', member, template, none);
    await send(member, waiting, ALLOWED, { text: 'too early' });
    await host.do('bind', member, POLICY);
    await send(member, waiting, OTHER, { text: 'not allowed' });
    await expectReached(member, waiting, 'bound');
    await host.do('bind', member, none);
    await send(member, waiting, ALLOWED, { text: 'too late' });
    await expectReached(one, first, 'last');
    for (const text of ['stolen', 'too early', 'not allowed', 'too late']) expect(arrived(text), text).toBe(false);
  });

  it('start: a snapshot gets a NIC only if it was saved with one', async () => {
    await open();
    const [without, carded] = [newSandboxId(), newSandboxId()];
    await host.do('start', without, null);
    await start(carded);
    for (const id of [without, carded]) {
      await host.do('save', id);
      await host.do('end', id);
    }
    const wanted = await host.refusal('startFrom', newSandboxId(), without, POLICY);
    expect(wanted).toMatchObject({ code: 'vm_unsupported', remedy: expect.any(String) });
    const refused = await host.refusal('startFrom', newSandboxId(), carded, null);
    expect(refused).toMatchObject({ code: 'snapshot_refused', remedy: expect.any(String) });
    expect(taps()).toEqual([]);
    await host.do('startFrom', newSandboxId(), without, null);
  });

  it('start: a refused start is cleaned up, and the next one succeeds', async () => {
    await open();
    const failed = newSandboxId();
    // Firecracker opens a TAP by name.
    const refusal = await host.refusal('startWithWrongTap', failed, POLICY);
    expect(refusal.code).toBe('vmm_command_failed');
    expect(taps()).toEqual([]);
    expect(ruleset()).not.toContain(failed);
    const id = newSandboxId();
    await expectReached(id, await start(id), 'next');
  });

  it('start: the VM ends with its killed owner; the next start removes its TAP and rules', async () => {
    await open();
    const id = newSandboxId();
    const { pid } = await start(id);
    const keeper = host.beside();
    undo.push(() => keeper.kill());
    await open({}, keeper);
    await host.kill();
    await expect.poll(() => startTicksOf(pid), PATIENT).toBeUndefined();
    const next = newSandboxId();
    await keeper.do('start', next, POLICY);
    const there = keeper.ip<{ ifname: string; ifalias?: string }>('link');
    expect(there.filter(({ ifalias }) => ifalias?.includes(id))).toEqual([]);
    expect(there.filter(({ ifalias }) => ifalias?.includes(next))).toHaveLength(1);
    expect(keeper.run('nft', 'list', 'ruleset')).not.toContain(id);
    await keeper.do('end', next);
  });
});

function hexOf(text: string, separator: string, radix: number): string {
  const bytes = text.split(separator).map((part) => Number.parseInt(part, radix));
  return Buffer.from(bytes).toString('hex');
}
