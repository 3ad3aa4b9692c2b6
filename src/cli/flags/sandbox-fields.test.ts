import { describe, expect, it } from 'vitest';
import { changeOf, limitsOf } from '../commands/update.ts';
import { readFields } from './field.ts';
import { parseBudget, parseSharedBudget } from './model-budget.ts';
import { type NetworkFlags, networkOptions } from './network-fields.ts';
import { CREATE_FIELDS, RATES, RUN_FIELDS, sandboxRequest } from './sandbox-fields.ts';

const NO_FLAGS: NetworkFlags = { allowOut: [], denyOut: [] };
const usage = expect.objectContaining({ code: 'usage' });

describe('networkOptions', () => {
  it('returns no network by default', () => {
    expect(networkOptions(NO_FLAGS)).toBeUndefined();
    expect(networkOptions({ ...NO_FLAGS, net: 'none' })).toBeUndefined();
  });

  it('rules without --net imply an allowlist', () => {
    const allow = ['pypi.org', '192.0.2.0/24:443'];
    const rules = { mode: 'allowlist', allow, deny: ['x.example'] };
    expect(networkOptions({ allowOut: allow, denyOut: ['x.example'] })).toEqual(rules);
    const asked = { allowOut: allow, denyOut: [], net: 'egress' } as const;
    expect(networkOptions(asked)).toEqual({ ...rules, deny: [] });
    const open = { allowOut: [], denyOut: ['x.example'], net: 'open' } as const;
    expect(networkOptions(open)).toEqual({ mode: 'open', allow: [], deny: ['x.example'] });
  });

  it('rejects options without effect', () => {
    for (const flags of [
      { ...NO_FLAGS, net: 'egress' },
      { ...NO_FLAGS, denyOut: ['x.example'] },
      { ...NO_FLAGS, net: 'none', allowOut: ['x.example'] },
    ] as const) {
      expect(() => networkOptions(flags)).toThrow(usage);
    }
  });
});

describe('--rate', () => {
  const bucket = { size: 5 * 1024 ** 2, refillPerSecond: 5 * 1024 ** 2 };
  const channelLimits = { guestToHostBytes: bucket, hostToGuestBytes: bucket };

  it('limits both directions, for create and update; none lifts the limits', () => {
    expect(readFields(RATES, { rate: '5M' })).toEqual({ channelLimits });
    expect(readFields(RATES, {})).toEqual({});
    const flags = { ...NO_FLAGS, label: [] };
    expect(changeOf({ ...flags, rate: '5M' })).toEqual({ channelLimits });
    expect(changeOf({ ...flags, rate: 'none' })).toEqual({ channelLimits: {} });
    expect(() => changeOf({ ...flags, rate: 'fast' })).toThrow(usage);
  });
});

describe('--allow-field', () => {
  it('names fields by their paths', () => {
    const flags = { ...NO_FLAGS, env: [], warm: [], alias: [], allowModel: [] };
    const allowed = (...allowField: string[]) =>
      sandboxRequest(RUN_FIELDS, { ...flags, allowField }, { env: {} }).models?.allowFields;
    expect(allowed('enable_search', 'messages.content.uuid')).toEqual(['enable_search', 'messages.content.uuid']);
    expect(allowed()).toBeUndefined();
    for (const wrong of ['', 'a b', 'messages[].uuid', '.a', '*']) {
      expect(() => allowed(wrong), wrong).toThrow(usage);
    }
  });
});

describe('--disk-limit', () => {
  const diskLimitsOf = (...diskLimit: string[]) => readFields(RATES, { diskLimit }).diskLimits;

  it('parses one list with units, for create and update', () => {
    expect(diskLimitsOf('rate=1.5MiB/s', 'iops=500')).toEqual({ bytesPerSecond: 1.5 * 1024 ** 2, opsPerSecond: 500 });
    expect(diskLimitsOf('none')).toEqual({});
    expect(diskLimitsOf()).toBeUndefined();
    const flags = { ...NO_FLAGS, label: [], diskLimit: ['rate=1M'] };
    expect(changeOf(flags)).toEqual({ diskLimits: { bytesPerSecond: 1024 ** 2 } });
    const network = { mode: 'open', allow: [], deny: [], limits: {}, address: null, gatewayUse: null } as const;
    expect(limitsOf({ ...flags, netLimit: ['none'] }, network)).toMatchObject({
      diskLimits: { bytesPerSecond: 1024 ** 2 },
      network: { limits: {} },
    });
  });

  it('rejects invalid limits', () => {
    for (const text of [
      '',
      'rate',
      'rate=',
      'rate=1K',
      'rate=2T',
      'iops=9',
      'iops=1.5',
      'ops=100',
      'toString=1',
      'none,rate=1M',
      'rate=1M,rate=2M',
      'RATE=1M',
    ]) {
      expect(() => diskLimitsOf(text), text).toThrow(usage);
    }
  });
});

describe('--net-limit', () => {
  const open = { ...NO_FLAGS, net: 'open' } as const;
  const limitsOfFlags = (...netLimit: string[]) => networkOptions({ ...open, netLimit })?.limits;

  it('parses one list with units', () => {
    expect(limitsOfFlags('bytes=1.5GiB,up=10MiB/s', 'down=512K', 'connections=20')).toEqual({
      bytesMax: 1.5 * 1024 ** 3,
      uploadBytesPerSecond: 10 * 1024 ** 2,
      downloadBytesPerSecond: 512 * 1024,
      connectionsMax: 20,
    });
    expect(limitsOfFlags('none')).toEqual({});
    expect(limitsOfFlags('up=10M,api.example.com=2K', '*.b.example=7')).toEqual({
      uploadBytesPerSecond: 10 * 1024 ** 2,
      destinations: [
        { name: 'api.example.com', bytesMax: 2048 },
        { name: '*.b.example', bytesMax: 7 },
      ],
    });
    expect(limitsOfFlags()).toBeUndefined();
  });

  it('rejects invalid limits', () => {
    for (const text of [
      '',
      'bytes',
      'bytes=',
      'bytes=-1',
      'up=1',
      'up=1T',
      'connections=0',
      'connections=1.5',
      'connections=1e3',
      'toString=1',
      'none,up=1M',
      'up=1M,up=2M',
      'bytes=1M,',
      'BYTES=1',
      'a.b',
      'a.b=',
      'a.b=0',
      'a.b=x',
      'a.b=1,a.b=2',
    ]) {
      expect(() => limitsOfFlags(text), text).toThrow(usage);
    }
    expect(() => networkOptions({ ...NO_FLAGS, netLimit: ['up=1M'] })).toThrow(usage);
  });

  it('without rules, keeps the rules of the sandbox', () => {
    const flags = { ...NO_FLAGS, label: [], netLimit: ['connections=5'] };
    const rules = { mode: 'allowlist', allow: ['a.example'], deny: ['b.example'] } as const;
    const network = { ...rules, limits: { bytesMax: 7 }, address: null, gatewayUse: null };
    const change = { network: { ...rules, limits: { connectionsMax: 5 } } };
    expect(limitsOf(flags, network)).toEqual(change);
    expect(limitsOf({ ...flags, timeout: '2m' }, network)).toEqual({ ...change, timeoutMs: 120_000 });
    const secret = { secret: ['KEY@a.example'] };
    const secrets = [{ name: 'KEY', hosts: ['a.example'], value: 'a value of the caller' }];
    expect(limitsOf({ ...flags, ...secret }, network, { KEY: 'a value of the caller' })).toEqual({
      ...change,
      secrets,
    });
    expect(() => limitsOf(flags, null)).toThrow(usage);
  });
});

it('--idle-timeout: none, as of all limits, or never', () => {
  const given = { ...NO_FLAGS, label: [] };
  for (const idleTimeout of ['none', 'never'])
    expect(sandboxRequest(CREATE_FIELDS, { ...given, idleTimeout }, { env: {} })).toMatchObject({
      idleTimeoutMs: null,
    });
});

describe('changeOf', () => {
  const none = { ...NO_FLAGS, label: [] };
  it('contains only the named options', () => {
    expect(changeOf({ ...none, net: 'none' })).toEqual({ network: null });
    expect(changeOf({ ...none, allowOut: ['a.example'] })).toEqual({
      network: { mode: 'allowlist', allow: ['a.example'], deny: [] },
    });
    expect(changeOf({ ...none, timeout: '2m', label: ['a=b'] })).toEqual({ timeoutMs: 120_000, metadata: { a: 'b' } });
    for (const timeout of ['none', 'never']) expect(changeOf({ ...none, timeout })).toEqual({ timeoutMs: null });
  });

  it('rejects a command without changes', () => {
    expect(() => changeOf(none)).toThrow(usage);
  });

  it('combines secrets with any network except none', () => {
    const env = { KEY: 'a value of the caller' };
    const secret = ['KEY@a.example'];
    const secrets = [{ name: 'KEY', hosts: ['a.example'], value: env.KEY }];
    expect(changeOf({ ...none, secret }, env)).toEqual({ secrets });
    expect(changeOf({ ...none, secret, net: 'open' }, env)).toEqual({
      secrets,
      network: { mode: 'open', allow: [], deny: [] },
    });
    expect(networkOptions({ ...none, secret, net: 'egress' })).toMatchObject({ allow: [] });
    expect(() => changeOf({ ...none, secret, net: 'none' }, env)).toThrow('mutually exclusive');
  });

  it('update --packages: a new policy, or none', () => {
    const packages = { ecosystems: ['pip'], allow: [], deny: ['torch'] };
    const flags = { label: [], allowOut: [], denyOut: [], secret: [] };
    expect(changeOf({ ...flags, packages: ['pip'], packagesDeny: ['torch'] })).toEqual({ packages });
    expect(changeOf({ ...flags, packages: ['none'] })).toEqual({ packages: null });
    expect(() => changeOf({ ...flags, packages: ['none'], packagesDeny: ['torch'] })).toThrow(
      '--packages none allows no other packages and no rules',
    );
    expect(() => changeOf({ ...flags, packagesDeny: ['torch'] })).toThrow('need --packages');
  });
});

describe('--model-budget, --model-priority', () => {
  const flags = { ...NO_FLAGS, env: [], warm: [], alias: [], allowModel: [] };
  const models = (more: object) => sandboxRequest(RUN_FIELDS, { ...flags, ...more }, { env: {} }).models ?? {};

  it('name the limits of the budget; several options make one', () => {
    const modelBudget = ['input=1M,output=1.5k', 'requests=10,cost=0.29,rate=5,per=1d'];
    expect(models({ modelBudget, modelPriority: 'batch' })).toMatchObject({
      priority: 'batch',
      budget: {
        inputTokens: 1_000_000,
        outputTokens: 1500,
        requests: 10,
        costNanoDollars: 290_000_000,
        windowMs: 86_400_000,
        tokensPerMinute: 5,
      },
    });
    expect(models({})).not.toHaveProperty('budget');
    expect(models({})).not.toHaveProperty('priority');
  });

  it.each([
    ['input=1x', 'invalid number "1x"'],
    ['money=1', 'unknown limit'],
    ['cost=$5', 'invalid number of dollars "$5"'],
    ['cost=0', 'out of range (0.000000001 to 1000000)'],
    ['cost=1000001', 'out of range (0.000000001 to 1000000)'],
    ['input=1,input=2', 'given twice'],
    ['per=1h', 'needs a limit'],
    ['output=0', 'out of range'],
  ])('refuse %s', (text, why) => {
    expect(() => models({ modelBudget: [text] })).toThrow(why);
  });

  it('none is an empty budget, and a rate needs no window', () => {
    expect(parseBudget(['none'])).toEqual({});
    expect(parseBudget(['rate=7'])).toEqual({ tokensPerMinute: 7 });
    expect(() => parseBudget(['rate=7,per=1h'])).toThrow('needs a limit');
  });

  it('serve --model-budget: a budget with windows', () => {
    expect(parseSharedBudget([])).toBeUndefined();
    expect(parseSharedBudget(['none'])).toBeNull();
    expect(parseSharedBudget(['cost=20', 'per=1h'])).toEqual({ costNanoDollars: 20_000_000_000, windowMs: 3_600_000 });
    expect(() => parseSharedBudget(['cost=20'])).toThrow('needs a window');
    expect(() => parseSharedBudget(['cost=20,rate=5,per=1h'])).toThrow('rate= is only for sandboxes');
    expect(() => parseSharedBudget(['per=1h'])).toThrow('needs a limit');
    expect(() => parseSharedBudget(['cost=0,per=1h'])).toThrow('--model-budget cost=0: out of range');
  });
});
