/** A lease whose packet filter and records fail: on loopback, with a stand-in for the table. */
import { createSocket } from 'node:dgram';
import { afterEach, describe, expect, it } from 'vitest';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { systemClock } from '../../src/base/clock.ts';
import { newSandboxId } from '../../src/base/ids.ts';
import { silentLog } from '../../src/base/log.ts';
import { type AddressLease, AddressPlan } from '../../src/egress/net/addresses/address-plan.ts';
import { encodeQuery, encodeReply, parseAnswer, parseQuery } from '../../src/egress/net/dns/message.ts';
import { SandboxLease, type SandboxLeaseOptions } from '../../src/egress/net/lease/sandbox-lease.ts';
import { NetworkShares } from '../../src/egress/net/lease/shares.ts';
import type { PacketPin } from '../../src/egress/net/nftables/ruleset.ts';
import { parsePolicy } from '../../src/egress/net/policy/egress-rules.ts';
import type { EgressPolicy } from '../../src/egress/net/policy/policy.ts';

/** A loopback address, for both host and guest. */
const HERE = '127.53.0.1';
const DATABASE = parsePolicy({ mode: 'allowlist', allow: ['db.example:5432'] });
const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const each of undo.splice(0).reverse()) await each();
});

class FakeTable {
  readonly pinned: PacketPin[][] = [];
  isFull = false;
  update = async (): Promise<void> => undefined;
  add = async (): Promise<void> => undefined;
  remove = async (): Promise<void> => undefined;
  traffic = async (): Promise<undefined> => undefined;

  async pin(_id: unknown, pins: () => readonly PacketPin[]): Promise<void> {
    if (this.isFull) throw new Error('the set is full');
    this.pinned.push([...pins()]);
  }
}

async function lease(record: SandboxLeaseOptions['record'] = () => undefined, own: Partial<SandboxLeaseOptions> = {}) {
  const table = new FakeTable();
  const upstream = createSocket('udp4');
  upstream.on('message', (bytes, from) => {
    const query = parseQuery(bytes);
    if (!query.ok) throw new Error(query.reason);
    const record = { type: 'A', name: '', ttlSeconds: 60, address: '93.184.216.34' } as const;
    const reply = encodeReply(query.value, { code: 0, records: [record] }, 0xffff);
    upstream.send(reply, from.port, from.address);
  });
  await new Promise<void>((resolve) => upstream.bind(0, HERE, resolve));
  const leased = new AddressPlan().lease(newSandboxId());
  const addresses: AddressLease = { ...leased, hostAddress: HERE, guestAddress: HERE };
  const tap = { name: leased.tap, fd: -1, close: async () => undefined };
  const upstreams = [{ address: HERE, port: upstream.address().port }];
  const made = new SandboxLease(
    {
      addresses,
      tap,
      lend: async (_borrower, open) => open(leased.tap),
      guard: undefined,
      mtu: 1500,
      policy: DATABASE,
      limits: {},
      bytesUsed: 0,
      table,
      record,
      upstreams,
      shares: new NetworkShares(),
      clock: systemClock,
      log: silentLog,
      ...own,
    },
    new CleanupStack(),
  );
  await made.open();
  undo.push(
    () => upstream.close(),
    () => made.release(),
  );
  return { made, table };
}

/** @returns the code of the answer */
async function ask(name: string): Promise<number | undefined> {
  const socket = createSocket('udp4');
  undo.push(() => socket.close());
  const answer = new Promise<Uint8Array>((resolve) => socket.once('message', resolve));
  await new Promise<void>((resolve) => socket.bind(0, HERE, resolve));
  socket.send(encodeQuery(1, name, 1), 53, HERE);
  const parsed = parseAnswer(await answer);
  return parsed.ok ? parsed.value.code : undefined;
}

describe('SandboxLease', () => {
  it('a name that the packet filter refuses is neither answered nor pinned', async () => {
    const { made, table } = await lease();
    table.isFull = true;
    expect(await ask('db.example')).toBe(2);
    expect(made.installedRules?.pins).toEqual([]);
    table.isFull = false;
    expect(await ask('db.example')).toBe(0);
    expect(made.installedRules?.pins).toMatchObject([{ address: '93.184.216.34', port: 5432 }]);
    expect(table.pinned).toMatchObject([[{ address: '93.184.216.34', port: 5432 }]]);
  });
  it('setPolicy: applies even if the record can’t be written', async () => {
    const { made } = await lease(() => {
      throw new Error('no space left on device');
    });
    const none = parsePolicy({ mode: 'none' });
    await made.setPolicy(none);
    expect(made.policy).toBe(none);
  });
  it('lend: fails after release, since another TAP may have the descriptor', async () => {
    const { made } = await lease();
    const opened: string[] = [];
    const open = async (name: string): Promise<void> => void opened.push(name);
    await made.lend({ pid: 1, user: null }, open);
    await made.release();
    await expect(made.lend({ pid: 1, user: null }, open)).rejects.toMatchObject({ code: 'closed' });
    expect(opened).toHaveLength(1);
  });
  it('setPolicy: a lease released meanwhile is not recorded', async () => {
    const recorded: EgressPolicy[] = [];
    const { made, table } = await lease((policy) => recorded.push(policy));
    const { promise, resolve } = Promise.withResolvers<void>();
    table.update = () => promise;
    const change = made.setPolicy(parsePolicy({ mode: 'none' }));
    await made.release();
    resolve();
    await change;
    expect(recorded).toEqual([DATABASE]);
  });
  it.each([
    ['dropped', []],
    ['lowered below its usage', [{ name: 'a.example', bytesMax: 20 }]],
    ['raised', [{ name: 'a.example', bytesMax: 200 }]],
  ])('setPolicy: a failed update keeps the usage of a destination limit it %s', async (_how, next) => {
    const limit = { name: 'a.example', bytesMax: 100 };
    const { made, table } = await lease(undefined, {
      limits: { destinations: [limit] },
      destinationBytesUsed: { 'a.example': 60 },
    });
    table.update = () => Promise.reject(new Error('nft refused the update'));
    await expect(made.setPolicy(DATABASE, { destinations: next })).rejects.toThrow('refused');
    expect(made.gatewayUse().destinations).toEqual([{ ...limit, bytesUsed: 60 }]);
    table.update = async () => undefined;
    await made.setPolicy(DATABASE, { destinations: next });
    expect(made.gatewayUse().destinations).toEqual(
      next.map((each) => ({ ...each, bytesUsed: Math.min(60, each.bytesMax) })),
    );
  });
});
