import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { SandboxId } from '../../../base/ids.ts';
import { AddressPlan } from '../addresses/address-plan.ts';
import { type EgressPolicyText, parsePolicy } from '../policy/egress-rules.ts';
import type { NftObject } from './json.ts';
import { addPins, addSandbox, removeSandbox, removeTable, updateSandbox, wholeTable } from './ruleset.ts';
import { type ChainInput, sandboxRules } from './sandbox-chains.ts';
import { COUNTER_NAMES, readTraffic } from './sandbox-counters.ts';

const ID = 'abcdefghij0123456789' as SandboxId;
const GOLDEN = join(import.meta.dirname, '../../../../test/fixtures/net-ruleset.jsonl');
const network = (policy: EgressPolicyText, more: Partial<ChainInput> = {}): ChainInput => ({
  lease: new AddressPlan().lease(ID),
  policy: parsePolicy(policy),
  dnsPort: 5353,
  gatewayPort: 3128,
  ...more,
});
const ALLOWLIST: EgressPolicyText = {
  mode: 'allowlist',
  allow: ['1.1.1.0/24', '9.9.9.9:53/udp', 'db.example.com:5432', 'example.com'],
  deny: ['1.1.1.1'],
};
const inWords = (commands: readonly NftObject[]): string[] =>
  commands.map((command) => {
    const [[verb = '', object] = []] = Object.entries(command);
    const [[kind = '', fields] = []] = Object.entries(object as NftObject);
    const { name, chain } = fields as { name?: string; chain?: string };
    return `${verb} ${kind} ${name ?? chain}`;
  });
const rulesText = (policy: EgressPolicyText, chain: 'from' | 'nat' | 'input' | 'forward' | 'to') =>
  sandboxRules(network(policy))[chain].map((rule) => JSON.stringify(rule));

describe('wholeTable', () => {
  it('equals the reviewed JSON', async () => {
    const limits = { bytesMax: 1e9, uploadBytesPerSecond: 1e6, connectionsMax: 100 };
    const commands = wholeTable([network(ALLOWLIST, { limits })]);
    const lines = commands.map((command) => JSON.stringify(command)).join('\n');
    await expect(`${lines}\n`).toMatchFileSnapshot(GOLDEN);
  });
  it('begins by replacing the table, so that it can be applied at any time', () => {
    expect(inWords(wholeTable([])).slice(0, 3)).toEqual([
      'add table neurovisor',
      'delete table neurovisor',
      'add table neurovisor',
    ]);
  });
});

describe('every transaction', () => {
  const one = network(ALLOWLIST);
  const pin = { address: '8.8.8.8', protocol: 'tcp', port: 5432, seconds: 60 } as const;
  const all = [
    wholeTable([one]),
    removeTable(),
    addSandbox(one),
    updateSandbox(one, [pin]),
    removeSandbox(one.lease),
    addPins(ID, [pin]),
  ];
  it('names only our table', () => {
    for (const command of all.flat()) {
      const [object] = Object.values(command);
      const [[kind = '', fields] = []] = Object.entries(object as NftObject);
      const { family, table, name } = fields as Record<string, unknown>;
      expect([family, kind === 'table' ? name : table]).toEqual(['inet', 'neurovisor']);
    }
  });
  it('lists, resets, flushes and deletes only by name', () => {
    for (const word of all.flatMap(inWords)) expect(word).toMatch(/^(add|delete|flush) \w+ \w+$/);
    expect(all.flatMap(inWords).some((word) => /flush (table|ruleset)/.test(word))).toBe(false);
  });
});

describe('removeSandbox', () => {
  it('removes each object that addSandbox adds', () => {
    const one = network(ALLOWLIST);
    const things = (commands: readonly NftObject[], verb: string): string[] =>
      inWords(commands)
        .filter((word) => word.startsWith(verb) && !word.includes(' rule '))
        .map((word) => word.slice(verb.length))
        .sort();
    const made = things(addSandbox(one), 'add');
    expect(made.length).toBeGreaterThan(30);
    expect(things(removeSandbox(one.lease), 'delete')).toEqual(made);
  });
});

describe('updateSandbox', () => {
  it('leaves counters, chains and the jumps to them in place', () => {
    const words = inWords(updateSandbox(network(ALLOWLIST), []));
    expect(words.filter((word) => !/^(flush|add rule)/.test(word))).toEqual([`add quota budget_${ID}`]);
  });
});

describe('sandboxRules', () => {
  it.each(['none', 'allowlist', 'open'])('%s: drops metadata before anything is allowed', (mode) => {
    const policy = mode === 'none' ? { mode } : { mode, allow: ['0.0.0.0/0', '168.63.0.0/16'] };
    for (const chain of ['from', 'forward'] as const) {
      const rules = rulesText(policy, chain);
      const metadata = rules.findIndex((r) => r.includes('"@metadata"') && r.includes('"drop"'));
      const accept = rules.findIndex((r) => r.includes('"accept"'));
      expect(metadata).toBeGreaterThanOrEqual(0);
      expect(accept === -1 || metadata < accept).toBe(true);
    }
  });
  it('none: redirects nothing and accepts only declared ports', () => {
    const rules = sandboxRules(network({ mode: 'none' }));
    expect(rules.nat).toEqual([]);
    const texts = [...rules.input, ...rules.forward].map((rule) => JSON.stringify(rule));
    // Replies on connections that the host opened.
    const own = '"left":{"ct":{"key":"direction"}},"right":"reply"';
    expect(texts.filter((text) => text.includes(own))).toHaveLength(1);
    for (const text of texts) if (!text.includes(own)) expect(text).not.toContain('"accept"');
  });
  it('sends every DNS query to our resolver, and web connections to the gateway if names decide', () => {
    expect(rulesText({ mode: 'open' }, 'nat')).toHaveLength(1);
    expect(rulesText({ mode: 'open' }, 'nat')[0]).toContain('"redirect":{"port":5353}');
    expect(rulesText({ mode: 'open' }, 'nat')[0]).not.toContain('daddr');
    const byName = rulesText({ mode: 'open', deny: ['evil.test'] }, 'nat');
    expect(byName[1]).toContain('"fib"');
    expect(byName.at(-1)).toContain('"redirect":{"port":3128}');
  });
  it('puts nat before Docker’s, whose priority is -100', () => {
    expect(JSON.stringify(wholeTable([]))).toContain('"hook":"prerouting","prio":-101');
  });
  it('open with denied names: also sends allowed blocks to the gateway', () => {
    const both = { mode: 'open', allow: ['8.8.8.8'], deny: ['evil.test'] };
    const rules = rulesText(both, 'nat').filter((rule) => rule.includes('8.8.8.8'));
    expect(rules).toEqual([expect.stringContaining('"redirect":{"port":3128}')]);
    expect(rulesText({ mode: 'allowlist', allow: ['8.8.8.8'] }, 'nat').join()).toContain('8.8.8.8');
  });
  it('refuses input that no caller may give', () => {
    const bad: Partial<ChainInput>[] = [
      { dnsPort: 0 },
      { gatewayPort: 70_000 },
      { hostPorts: [{ protocol: 'tcp', port: 1.5 }] },
      { limits: { bytesMax: -1 } },
      { lease: { ...network({ mode: 'open' }).lease, tap: 'eth0' } },
      { lease: { ...network({ mode: 'open' }).lease, id: 'a"b' as SandboxId } },
    ];
    for (const more of bad) {
      expect(() => sandboxRules(network({ mode: 'open' }, more))).toThrowError(/port|limit|TAP|id/);
    }
  });
});

describe('addPins', () => {
  it('adds each destination once, with the latest expiry', () => {
    const pin = { address: '8.8.8.8', protocol: 'tcp', port: 443 } as const;
    const text = JSON.stringify(
      addPins(ID, [
        { ...pin, seconds: 30 },
        { ...pin, seconds: 0.2 },
      ]),
    );
    expect(text.match(/8\.8\.8\.8/g)).toHaveLength(3);
    expect(text).toContain('"timeout":1}');
    expect(addPins(ID, [])).toEqual([]);
  });
});

describe('readTraffic', () => {
  it('reads counters and budget, and ignores objects that are not ours', () => {
    const traffic = readTraffic([
      { metainfo: { version: '1.0.6' } },
      { counter: { name: 'unknown', packets: 9, bytes: 9 } },
      { counter: { name: `sent_${ID}`, packets: 2, bytes: 120 } },
      { counter: { name: `nonsense_${ID}`, packets: 2, bytes: 120 } },
      { counter: { name: `seen_${ID}`, packets: -1, bytes: 'x' } },
      { quota: { name: `budget_${ID}`, bytes: 1000, used: 120 } },
      { counter: null },
      { counter: { name: 7 } },
    ]);
    expect([...traffic.keys()]).toEqual([ID]);
    const { counts, budgetBytesUsed } = traffic.get(ID) ?? { counts: {}, budgetBytesUsed: 0 };
    expect(Object.keys(counts).sort()).toEqual([...COUNTER_NAMES].sort());
    expect(counts).toMatchObject({ sent: { packets: 2, bytes: 120 }, seen: { packets: 0, bytes: 0 } });
    expect(budgetBytesUsed).toBe(120);
  });
});
