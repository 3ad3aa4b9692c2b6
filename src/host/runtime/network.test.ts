import { describe, expect, it } from 'vitest';
import { SecretValue } from '../../base/request/secret-value.ts';
import type { HostNetwork, NetworkLease, NetworkRequest } from '../../egress/net/lease/lease.ts';
import type { EgressSecrets } from '../../egress/net/secret/secret.ts';
import type { NetworkSpec } from '../../sandbox/contract/network-spec.ts';
import { Network, parseEgress } from './network.ts';

const ID = 'sandbox-1';
const list = (...allow: string[]): NetworkSpec => ({ policy: parseEgress({ mode: 'allowlist', allow }), limits: {} });
const BY_PATH = list('GET https://a.example/v1/');

/** Records the calls of the lease, in order. */
function world() {
  const requests: NetworkRequest[] = [];
  const given: (EgressSecrets | undefined)[] = [];
  const done: string[] = [];
  const lease: Partial<NetworkLease> = {
    tapFd: 9,
    interfaceName: 'nv-one',
    confirmHandover: async () => void done.push('handed over'),
    lend: async () => {
      await Promise.resolve();
      done.push('lent');
    },
    release: async () => void done.push('released'),
    setSecrets: async (secrets) => {
      given.push(secrets);
      done.push('secrets');
    },
    setPolicy: async ({ allow }) => {
      done.push(`policy ${allow.map(({ text }) => text).join()}`);
    },
  };
  const host: Partial<HostNetwork> = {
    lease: async (request) => {
      requests.push(request);
      return lease as NetworkLease;
    },
  };
  const watch = (_id: string, name: string) => {
    done.push(`watch ${name}`);
    return () => void done.push('no watch');
  };
  const network = new Network({ open: async () => host as HostNetwork, watchCard: watch });
  return { network, requests, given, done };
}

describe('Network: watchCard', () => {
  const vmm = { pid: 1, user: null };
  it('lease: a card is watched until its release, except during a loan', async () => {
    const { network, done } = world();
    const lease = await network.lease(ID, list('a.example'), { secrets: [] });
    await lease.lend(vmm, async () => undefined);
    await lease.confirmHandover();
    await lease.release();
    expect(done).toEqual([
      ...['watch nv-one', 'no watch', 'lent', 'watch nv-one', 'handed over', 'no watch', 'released'],
    ]);
  });
  it('lease: a card released during a loan is not watched again', async () => {
    const { network, done } = world();
    const lease = await network.lease(ID, list('a.example'), { secrets: [] });
    const lent = lease.lend(vmm, async () => undefined);
    await lease.release();
    await lent;
    expect(done.filter((what) => what === 'watch nv-one')).toHaveLength(1);
  });
});

describe('Network: rules by path', () => {
  it('lease: without rules by path and secrets, no authority is made', async () => {
    const { network, requests, given } = world();
    const lease = await network.lease(ID, list('a.example'), { secrets: [] });
    await lease.setPolicy(list('http://a.example/v1/').policy, {});
    expect([lease.trust, requests[0]?.secrets, given]).toEqual([undefined, undefined, []]);
  });
  it('lease: an https rule by path adds an authority with its certificate, and no secret', async () => {
    const { network, requests } = world();
    const lease = await network.lease(ID, BY_PATH, { secrets: [] });
    expect(lease.trust?.certificate).toContain('BEGIN CERTIFICATE');
    expect(requests[0]?.secrets).toMatchObject({ secrets: [], authority: lease.trust?.authority });
  });
  it('setPolicy: the first rule by path adds an authority once, before the policy, with the current secrets', async () => {
    const { network, given, done } = world();
    const lease = await network.lease(ID, list('a.example'), { secrets: [] });
    await lease.setPolicy(BY_PATH.policy, {});
    const { trust } = lease;
    expect(trust?.certificate).toContain('BEGIN CERTIFICATE');
    await lease.setPolicy(list('GET https://b.example/').policy, {});
    expect(done.slice(1)).toEqual(['secrets', 'policy GET https://a.example/v1/', 'policy GET https://b.example/']);
    const value = new SecretValue('0123456789abcdef');
    const secret = { name: 'KEY', hosts: ['c.example'], places: [], placeholder: 'NV_1', value };
    await lease.setSecrets([secret]);
    await lease.setSecrets([]);
    expect(given.map((each) => each?.secrets.length)).toEqual([0, 1, 0]);
    expect(given.every((each) => each?.authority === trust?.authority)).toBe(true);
    expect(lease.trust?.authority).toBe(trust?.authority);
  });
  it('lease: a sandbox keeps its authority', async () => {
    const first = await world().network.lease(ID, BY_PATH, { secrets: [] });
    const authority = first.trust?.authority;
    const next = await world().network.lease(ID, BY_PATH, { secrets: [], authority });
    expect(next.trust).toEqual(first.trust);
  });
});

describe('Network: stored secrets', () => {
  const stored = {
    name: 'KEY',
    stored: 'acme/KEY',
    hosts: ['a.example'],
    places: [],
    placeholder: 'NV_1',
    value: null,
  };
  const valueIn = (secrets: EgressSecrets | undefined) =>
    secrets?.secrets.map(({ value, isMissing }) => (isMissing ? null : value.reveal()));

  it('lease, refreshSecret: a lease gets the current value, until the secret is removed or the lease released', async () => {
    const { network, requests, given } = world();
    let value: string | null = 'first-0123456789';
    network.storedValue = async (name) => (name === 'acme/KEY' && value !== null ? new SecretValue(value) : null);
    const lease = await network.lease(ID, list(), { secrets: [stored] });
    expect(valueIn(requests[0]?.secrets)).toEqual(['first-0123456789']);
    value = 'second-0123456789';
    await network.refreshSecret('other/KEY');
    await network.refreshSecret('acme/KEY');
    value = null;
    await network.refreshSecret('acme/KEY');
    await lease.release();
    await network.refreshSecret('acme/KEY');
    expect(given.map(valueIn)).toEqual([['second-0123456789'], [null]]);
  });
  it('lease: a value that is replaced while the lease is opened reaches it', async () => {
    const { network, given } = world();
    let value = 'first-0123456789';
    network.storedValue = async () => {
      const read = new SecretValue(value);
      const isFirst = value === 'first-0123456789';
      value = 'second-0123456789';
      if (isFirst) await network.refreshSecret('acme/KEY');
      return read;
    };
    await network.lease(ID, list(), { secrets: [stored] });
    expect(given.map(valueIn).at(-1)).toEqual(['second-0123456789']);
  });
});

describe('parseEgress', () => {
  it('limits by name need the mode allowlist', () => {
    const limits = { destinations: [{ name: 'a.example', bytesMax: 1 }] };
    expect(() => parseEgress({ mode: 'open', limits })).toThrow('limits by name');
    expect(parseEgress({ mode: 'none', limits }).mode).toBe('none');
    expect(parseEgress({ mode: 'allowlist', allow: ['a.example'], limits }).mode).toBe('allowlist');
  });
});
