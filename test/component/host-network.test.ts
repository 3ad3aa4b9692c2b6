/** The network of a host against the kernel, with processes that start, close and are killed. */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { sleep } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { ANCHOR_PREFIX } from '../../src/egress/net/xdp/anchor.ts';
import { NamespacedProcess } from '../support/net-namespace.ts';

const FIXTURE = join(import.meta.dirname, '../fixtures/host-network.ts');

interface Leased {
  readonly interfaceName: string;
  readonly address: string;
  readonly gateway: string;
  readonly mac: string;
  readonly gatewayMac: string;
}

let stateDir: string;
let a: NamespacedProcess;
const undo: (() => unknown)[] = [];

beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), 'nv-host-network-'));
  a = NamespacedProcess.inNewNamespace(FIXTURE);
  undo.push(
    () => rm(stateDir, { recursive: true, force: true }),
    () => a.kill(),
  );
});

afterEach(async () => {
  for (const each of undo.splice(0).reverse()) await each();
});

function beside(): NamespacedProcess {
  const other = a.beside();
  undo.push(() => other.kill());
  return other;
}

/** A process that keeps the namespace open when the others are killed. */
function holdNamespace(): NamespacedProcess {
  return beside();
}

const allLinks = (): string[] => a.ip<{ ifname: string }>('link').map(({ ifname }) => ifname);
/** All links except the one that a process keeps while it has a network. */
const links = (): string[] => allLinks().filter((name) => !name.startsWith(ANCHOR_PREFIX));
const wholeRuleset = (where = a): string => where.run('nft', 'list', 'ruleset');
/** The ruleset without the guard table, which survives a flush. */
const ruleset = (where = a): string =>
  wholeRuleset(where).replace(/^table inet neurovisor_guard_.*\n(?:\t.*\n|\n)*\}\n/gm, '');
const forwarding = (where = a): string => where.run('cat', '/proc/sys/net/ipv4/ip_forward').trim();
const records = async (): Promise<string[]> => (await readdir(stateDir)).filter((name) => name.endsWith('.lease.json'));

describe('HostNetwork: leases', () => {
  it('two leases have a TAP, addresses and rules each, and nothing is left after release', async () => {
    await a.do('open', stateDir);
    const empty = ruleset();
    const [one, two] = [newSandboxId(), newSandboxId()];
    const first = await a.do<Leased>('lease', one, { mode: 'allowlist', allow: ['1.1.1.1'] });
    const second = await a.do<Leased>('lease', two);
    expect(first).toMatchObject({
      interfaceName: `nv-${one.slice(0, 8)}`,
      address: '10.201.0.2',
      prefixLength: 30,
      gateway: '10.201.0.1',
      mac: expect.stringMatching(/^aa:fc(:[0-9a-f]{2}){4}$/),
      mtu: 1500,
    });
    expect(second).toMatchObject({ address: '10.201.0.6', gateway: '10.201.0.5' });
    expect(second.mac).not.toBe(first.mac);
    expect(a.ip('addr', 'show', first.interfaceName)).toMatchObject([
      {
        address: first.gatewayMac,
        flags: expect.arrayContaining(['UP']),
        ifalias: expect.stringContaining(`neurovisor:${one}:`),
        addr_info: [{ local: '10.201.0.1', prefixlen: 30 }],
      },
    ]);
    expect(a.ip('neigh', 'show', 'dev', first.interfaceName)).toMatchObject([
      { dst: first.address, lladdr: first.mac, state: ['PERMANENT'] },
    ]);
    expect(forwarding()).toBe('1');
    for (const id of [one, two]) expect(ruleset()).toContain(`chain forward_${id}`);
    expect(await a.do('traffic', one)).toMatchObject({ packetsOut: 0, refused: {} });

    await a.do('release', one);
    await a.do('release', one);
    expect(ruleset()).not.toContain(one);
    expect(ruleset()).toContain(`chain forward_${two}`);
    expect(forwarding()).toBe('1');
    await a.do('release', two);
    expect(links()).toEqual(['lo']);
    expect(ruleset()).toBe(empty);
    expect(forwarding()).toBe('0');
    expect(await records()).toEqual([]);
  });

  it.each([false, true])(
    'a lent TAP that was not opened is removed with its lease, and the next lease succeeds (VMM killed: %s)',
    async (dies) => {
      await a.do('openStill', stateDir);
      const id = newSandboxId();
      await a.do('lease', id);
      const refusal = await a.refusal('lendInVain', id, dies);
      expect(refusal).toMatchObject({ code: 'busy', message: expect.stringContaining('20000 ms') });
      await a.do('release', id);
      expect(links()).toEqual(['lo']);
      expect(ruleset()).not.toContain(id);
      await a.do('lease', newSandboxId());
      expect(links()).toHaveLength(2);
    },
  );

  it('the last process removes the table, and one that opened meanwhile can still lease', async () => {
    await a.do('open', stateDir);
    const b = beside();
    await b.do('open', stateDir);
    await a.do('lease', newSandboxId());
    await a.do('close');
    expect(ruleset(b)).toBe('');
    const id = newSandboxId();
    await b.do('lease', id);
    expect(ruleset(b)).toContain(`chain forward_${id}`);
    await b.do('close');
    expect(wholeRuleset(b)).toBe('');
    expect(forwarding(b)).toBe('0');
  });

  it('two hundred leases have an address each, and leave no descriptor or rule', async () => {
    await a.do('open', stateDir);
    const empty = ruleset();
    // Warm-up, for descriptors that are opened once and stay open.
    await a.do('many', [newSandboxId()]);
    await a.do('releaseAll');
    const before = await a.do<number>('fds');
    const addresses = await a.do<string[]>(
      'many',
      Array.from({ length: 200 }, () => newSandboxId()),
    );
    expect(new Set(addresses).size).toBe(200);
    expect(links()).toHaveLength(201);
    await a.do('releaseAll');
    expect(await a.do('count')).toBe(0);
    expect(links()).toEqual(['lo']);
    expect(ruleset()).toBe(empty);
    expect(await records()).toEqual([]);
    expect(await a.do('fds')).toBeLessThanOrEqual(before);
  });

  it('no child process inherits a descriptor', async () => {
    await a.do('open', stateDir);
    await a.do('many', [newSandboxId()]);
    expect(await a.do('inherited')).toEqual([]);
  });

  it('setPolicy: changes rules and record in place', async () => {
    await a.do('open', stateDir);
    const id = newSandboxId();
    await a.do('lease', id, { mode: 'none' });
    await a.do('setPolicy', id, { mode: 'allowlist', allow: ['192.0.2.7:443'] });
    expect(ruleset()).toContain('192.0.2.7');
    const [name = ''] = await records();
    expect(a.run('cat', join(stateDir, name))).toContain('"192.0.2.7:443"');
    await a.do('setPolicy', id, { mode: 'open' });
    expect(ruleset()).not.toContain('192.0.2.7');
  });

  it('an exhausted budget is logged once, and lasts over a change, a flush and into the next lease', async () => {
    await a.do('open', stateDir);
    const id = newSandboxId();
    const limits = { bytesMax: 100 };
    const { gateway } = await a.do<Leased>('lease', id, { mode: 'open' }, { limits, bytesUsed: 20 });
    const send = async (packets: number): Promise<void> => {
      for (let sent = 0; sent < packets; sent += 1) await a.do('datagram', id, gateway);
    };
    const used = async (): Promise<unknown> => (await a.do<{ bytesUsed: number }>('traffic', id)).bytesUsed;
    const toldTimes = async (): Promise<number> =>
      (await a.do<string[]>('infos')).filter((info) => info.includes('budget')).length;
    // A datagram has 29 bytes.
    await send(1);
    expect(await used()).toBe(49);
    expect(await toldTimes()).toBe(0);
    await send(4);
    await expect.poll(toldTimes).toBe(1);
    expect(await used()).toBe(100);
    await a.do('setPolicy', id, { mode: 'open', deny: ['192.0.2.1'] });
    a.run('nft', 'flush', 'ruleset');
    await expect.poll(() => ruleset()).toContain('over 100 bytes used 100 bytes');
    // Refused traffic is not counted.
    await a.do('setPolicy', id, { mode: 'open' }, { bytesMax: 150 });
    expect(await used()).toBe(100);
    await send(1);
    expect(await used()).toBe(129);
    expect(await toldTimes()).toBe(1);
    await send(1);
    await expect.poll(toldTimes).toBe(2);
  });

  it('a second lease of a sandbox has the same MAC and another address', async () => {
    await a.do('open', stateDir);
    const id = newSandboxId();
    const first = await a.do<Leased>('lease', id);
    await a.do('release', id);
    const second = await a.do<Leased>('lease', id);
    expect(second.mac).toBe(first.mac);
    expect(second.address).not.toBe(first.address);
  });

  it('a failed step undoes the earlier ones', async () => {
    await a.do('open', stateDir);
    const empty = ruleset();
    const id = newSandboxId();
    const tap = `nv-${id.slice(0, 8)}`;
    a.run('ip', 'tuntap', 'add', 'dev', tap, 'mode', 'tap');
    expect(await a.refusal('lease', id)).toMatchObject({ code: 'exists' });
    expect(links()).toEqual(['lo', tap]);
    a.run('ip', 'link', 'del', tap);
    // The last step fails: the packet filter has an entry of that name already.
    a.run('nft', `add element inet neurovisor from_taps { "${tap}" : drop }`);
    expect(await a.refusal('lease', id)).toMatchObject({ code: 'nft_refused' });
    expect(links()).toEqual(['lo']);
    expect(forwarding()).toBe('0');
    expect(await records()).toEqual([]);
    a.run('nft', `delete element inet neurovisor from_taps { "${tap}" }`);
    expect(ruleset()).toBe(empty);
    await a.do('lease', id);
    expect(links()).toEqual(['lo', tap]);
  });

  it('a closed network refuses leases, and has released all', async () => {
    await a.do('open', stateDir);
    await a.do('many', [newSandboxId(), newSandboxId()]);
    expect(allLinks()).toContainEqual(expect.stringContaining(ANCHOR_PREFIX));
    await a.do('close');
    expect(allLinks()).toEqual(['lo']);
    expect(await a.refusal('lease', newSandboxId())).toMatchObject({ code: 'closed' });
  });
});

describe('HostNetwork: several processes', () => {
  it('have different addresses, and closing one does not affect the other', async () => {
    const b = beside();
    await a.do('open', stateDir);
    const one = newSandboxId();
    const first = await a.do<Leased>('lease', one);
    await b.do('open', stateDir);
    const two = newSandboxId();
    const second = await b.do<Leased>('lease', two);
    expect(second.address).not.toBe(first.address);
    await a.do('close');
    expect(links()).toEqual(['lo', second.interfaceName]);
    expect(ruleset()).not.toContain(one);
    expect(ruleset()).toContain(`chain from_${two}`);
    expect(forwarding()).toBe('1');
    await b.do('close');
    expect(links()).toEqual(['lo']);
    expect(forwarding()).toBe('0');
  });

  it('do not choose the address of a TAP that is lent', async () => {
    const b = beside();
    for (const one of [a, b]) await one.do('open', stateDir);
    const [lent, other] = [newSandboxId(), newSandboxId()];
    const first = await a.do<Leased>('lease', lent);
    await a.do('lend', lent);
    expect(links()).not.toContain(first.interfaceName);
    const leasing = b.do<Leased>('lease', other);
    // Long enough for a wrong implementation to choose the lent address.
    await Promise.race([leasing, sleep(300)]);
    await a.do('takeBack');
    expect((await leasing).address).not.toBe(first.address);
    expect(a.ip('addr', 'show', first.interfaceName)).toMatchObject([
      { flags: expect.arrayContaining(['UP']), addr_info: [{ local: first.gateway }] },
    ]);
    expect(a.ip('neigh', 'show', 'dev', first.interfaceName)).toMatchObject([
      { dst: first.address, lladdr: first.mac, state: ['PERMANENT'] },
    ]);
  });

  it('choose addresses at the same time without a duplicate', async () => {
    const b = beside();
    await Promise.all([a.do('open', stateDir), b.do('open', stateDir)]);
    const ids = () => Array.from({ length: 10 }, () => newSandboxId());
    const [first, second] = await Promise.all([a.do<string[]>('many', ids()), b.do<string[]>('many', ids())]);
    expect(new Set([...first, ...second]).size).toBe(20);
    expect(links()).toHaveLength(21);
  });

  it('kill -9: the next process to open reclaims its leases, and none of a running process', async () => {
    const holder = holdNamespace();
    const victim = beside();
    await a.do('open', stateDir);
    const own = newSandboxId();
    const kept = await a.do<Leased>('lease', own);
    await victim.do('open', stateDir);
    const dead = newSandboxId();
    const lost = await victim.do<Leased>('lease', dead);
    const vmm = await victim.do<number>('handOver', dead);
    undo.push(() => process.kill(vmm, 'SIGKILL'));
    await victim.kill();
    // The VMM lives, so its TAP exists.
    expect(links()).toEqual(expect.arrayContaining([lost.interfaceName, kept.interfaceName]));
    expect(ruleset()).toContain(`chain from_${dead}`);
    const next = beside();
    await next.do('open', stateDir);
    expect(links()).toEqual(['lo', kept.interfaceName]);
    expect(ruleset()).not.toContain(dead);
    expect(ruleset()).toContain(`chain from_${own}`);
    expect(await records()).toEqual([`${own}.lease.json`]);
    expect(forwarding()).toBe('1');
    await a.do('close');
    expect(forwarding()).toBe('0');
    await holder.kill();
  });

  it('kill -9: budgets go on in the next lease, whichever process has reclaimed the dead one', async () => {
    const holder = holdNamespace();
    const victim = beside();
    const [id, flushed] = [newSandboxId(), newSandboxId()];
    const limits = { bytesMax: 100, destinations: [{ name: 'a.example', bytesMax: 50 }] };
    const more = { limits, bytesUsed: 20, destinationBytesUsed: { 'a.example': 30 } };
    const used = async (who: NamespacedProcess, one: string): Promise<unknown> =>
      (await who.do<{ bytesUsed: number }>('traffic', one)).bytesUsed;
    const policy = { mode: 'allowlist', allow: ['a.example'] };
    await victim.do('open', stateDir);
    const { gateway } = await victim.do<Leased>('lease', id, policy, more);
    await victim.do('datagram', id, gateway);
    expect(await used(victim, id)).toBe(49);
    await victim.kill();
    const others = beside();
    await others.do('open', stateDir);
    expect(await records()).toEqual([]);
    const next = beside();
    await next.do('open', stateDir);
    await next.do('lease', id, policy, { limits });
    expect(await used(next, id)).toBe(49);
    const record = JSON.parse(await readFile(join(stateDir, `${id}.lease.json`), 'utf8'));
    expect(record.use.destinations).toEqual([{ name: 'a.example', bytesMax: 50, bytesUsed: 30 }]);
    await next.do('release', id);
    // Without a limit there is nothing to keep.
    await next.do('lease', id, policy);
    await next.do('lease', flushed, policy, { limits });
    await next.kill();
    // What the kernel has lost counts as all of it.
    holder.run('nft', 'flush', 'ruleset');
    await others.do('close');
    await holder.do('open', stateDir);
    expect((await readdir(stateDir)).filter((name) => name.endsWith('.used.json'))).toEqual([`${flushed}.used.json`]);
    await holder.do('lease', flushed, policy, { limits });
    expect(await used(holder, flushed)).toBe(100);
    expect((await readdir(stateDir)).filter((name) => name.endsWith('.used.json'))).toEqual([]);
  });

  it('kill -9 of the only process: the next one restores ip_forward, too', async () => {
    const holder = holdNamespace();
    const victim = beside();
    await victim.do('open', stateDir);
    await victim.do('lease', newSandboxId());
    await victim.kill();
    expect(forwarding(holder)).toBe('1');
    await holder.do('open', stateDir);
    expect(forwarding(holder)).toBe('0');
    expect(ruleset(holder)).not.toContain('owner/');
  });
});

describe('HostNetwork: other programs on the host', () => {
  it('their tables and links stay unchanged byte for byte', async () => {
    a.run('ip', 'tuntap', 'add', 'dev', 'nv-other', 'mode', 'tap');
    a.run('ip', 'address', 'add', '192.168.7.1/24', 'dev', 'nv-other');
    a.run('nft', 'add table ip docker; add chain ip docker f { type filter hook forward priority 0; }');
    a.run('nft', 'add table inet neurovisor2; add counter inet neurovisor2 owner');
    const others = (): string =>
      a.run('nft', 'list table ip docker') +
      a.run('nft', 'list table inet neurovisor2') +
      a.run('ip', 'address', 'show', 'nv-other');
    const before = others();
    await a.do('open', stateDir);
    await a.do('many', [newSandboxId(), newSandboxId()]);
    await a.do('close');
    expect(others()).toBe(before);
  });

  it('an address of theirs in the pool fails the open', async () => {
    a.run('ip', 'tuntap', 'add', 'dev', 'br0', 'mode', 'tap');
    a.run('ip', 'address', 'add', '10.201.9.1/24', 'dev', 'br0');
    const refusal = await a.refusal('open', stateDir);
    expect(refusal).toMatchObject({
      code: 'pool_conflict',
      message: expect.stringContaining('br0'),
      remedy: expect.stringContaining('NEUROVISOR_NET_POOL'),
    });
    await a.do('open', stateDir, '10.202.0.0/16');
    expect(await a.do('lease', newSandboxId())).toMatchObject({ address: '10.202.0.2' });
  });

  it('a flush of the whole ruleset is repaired without a request', async () => {
    await a.do('open', stateDir);
    await a.do('lease', newSandboxId(), { mode: 'allowlist', allow: ['192.0.2.7'] });
    const before = ruleset();
    for (let round = 0; round < 2; round += 1) {
      a.run('nft', 'flush', 'ruleset');
      await expect.poll(() => ruleset()).toBe(before);
    }
  });

  it('two processes repair a flush, each for its own sandboxes', async () => {
    const b = beside();
    await Promise.all([a.do('open', stateDir), b.do('open', stateDir)]);
    const [one, two] = [newSandboxId(), newSandboxId()];
    await a.do('lease', one);
    await b.do('lease', two);
    a.run('nft', 'flush', 'ruleset');
    const isThere = (id: string): boolean => ruleset().includes(`jump from_${id}`);
    await expect.poll(() => [isThere(one), isThere(two)]).toEqual([true, true]);
  });

  it('until the repair, a guest reaches nothing', async () => {
    await a.do('openStill', stateDir);
    a.run('ip', 'link', 'set', 'lo', 'up');
    const id = newSandboxId();
    const { gateway } = await a.do<Leased>('lease', id, { mode: 'open' });
    await a.do('listen', gateway, 9999);
    const arrived = (): Promise<number> => a.do<number>('heard', gateway, 9999);
    // Undeclared: refused by the rules.
    await a.do('datagram', id, gateway);
    expect(await arrived()).toBe(0);
    a.run('nft', 'flush', 'ruleset');
    await a.do('datagram', id, gateway);
    expect(ruleset()).not.toContain('table inet neurovisor {');
    expect(wholeRuleset()).toMatch(/unfiltered[\s\S]*counter packets [1-9]/);
    expect(await arrived()).toBe(0);
    await a.do('close').catch(() => undefined);
    await expect.poll(() => wholeRuleset()).not.toContain('guard');
  });

  it('until the repair, a guest reaches no metadata service, and tries are counted', async () => {
    await a.do('open', stateDir);
    const id = newSandboxId();
    await a.do('lease', id);
    a.run('nft', 'flush', 'ruleset');
    await a.do('datagram', id, '169.254.169.254');
    await a.do('datagram', id, '168.63.129.16');
    expect(await a.do('traffic', id)).toMatchObject({ refused: { metadata: 2 } });
    // Not counted by the packet filter, which was flushed.
    const counter = ['list', 'counter', 'inet', 'neurovisor', `metadata_${id}`];
    await expect.poll(() => a.run('nft', ...counter)).toContain('packets 0');
    expect(await a.do('warnings')).not.toContainEqual(expect.stringContaining('XDP'));
  });

  it('without BPF: one warning, and metadata services stay blocked', async () => {
    const weak = new NamespacedProcess(['unshare', '-n', 'setpriv', '--bounding-set=-bpf,-sys_admin'], FIXTURE);
    undo.push(() => weak.kill());
    await weak.do('open', stateDir);
    const [one, two] = [newSandboxId(), newSandboxId()];
    await weak.do('lease', one);
    await weak.do('lease', two);
    await weak.do('datagram', one, '169.254.169.254');
    expect(await weak.do('traffic', one)).toMatchObject({ refused: { metadata: 1 } });
    expect(await weak.do('warnings')).toEqual([expect.stringContaining('not by XDP')]);
  });

  it('the next change repairs a flush, too', async () => {
    await a.do('open', stateDir);
    const [one, two] = [newSandboxId(), newSandboxId()];
    await a.do('lease', one, { mode: 'allowlist', allow: ['192.0.2.7'] });
    const before = ruleset();
    a.run('nft', 'flush', 'ruleset');
    await a.do('lease', two);
    expect(ruleset()).toContain('192.0.2.7');
    await a.do('release', two);
    expect(ruleset()).toBe(before);
    a.run('nft', 'flush', 'ruleset');
    expect(await a.do('traffic', one)).toMatchObject({ packetsOut: 0 });
    a.run('nft', 'flush', 'ruleset');
    await a.do('release', one);
    expect(links()).toEqual(['lo']);
  });

  it('guests resolve names while another program has port 53 of every address', async () => {
    const holder = beside();
    await holder.do('open', stateDir);
    const squatter = beside();
    await squatter.do('squat', 53);
    await a.do('open', stateDir);
    const id = newSandboxId();
    await a.do('lease', id);
    expect(ruleset()).toMatch(/dport 53 redirect to :\d{4,5}/);
  });

  it('not_permitted: without CAP_NET_ADMIN, with a remedy', async () => {
    const weak = new NamespacedProcess(['unshare', '-n', 'setpriv', '--bounding-set=-all'], FIXTURE);
    undo.push(() => weak.kill());
    expect(await weak.refusal('open', stateDir)).toMatchObject({
      code: 'not_permitted',
      remedy: expect.stringContaining('root'),
    });
  });
});
