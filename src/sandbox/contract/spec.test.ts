import { describe, expect, it } from 'vitest';
import { parseEgress } from '../../host/runtime/network.ts';
import { DEFAULTS } from './limits.ts';
import { NO_MODEL_POLICY, withDefaultModel } from './model-policy.ts';
import { type NetworkLimits, networkSpec } from './network-spec.ts';
import { makeSpec, type SandboxOptions } from './spec.ts';

const SLOW = { size: 5e-324, refillPerSecond: 5e-324 };
const withLimits = (limits: NetworkLimits): SandboxOptions => ({ network: { mode: 'open', limits } });

describe('networkSpec', () => {
  it('limits: the request’s, or else the previous ones', () => {
    const limits = { bytesMax: 7, connectionsMax: 2 };
    const before = networkSpec({ mode: 'open', limits }, parseEgress);
    expect(networkSpec({ mode: 'none' }, parseEgress)?.limits).toEqual({});
    expect(networkSpec({ mode: 'none' }, parseEgress, before)?.limits).toEqual(limits);
    const other = { mode: 'none', limits: { connectionsMax: 3 } } as const;
    expect(networkSpec(other, parseEgress, before)?.limits).toEqual(other.limits);
  });
});

describe('withDefaultModel', () => {
  it.each([
    ['the first of the upstream', undefined, 'm1', 'm1'],
    ['the same, where it is allowed', { allow: ['m2', 'm1'] }, 'm1', 'm1'],
    ['no model that is not allowed: the first that is', { allow: ['m2', 'm3'] }, 'm1', 'm2'],
    ['the first that is allowed, of an upstream that lists none', { allow: ['m2'] }, null, 'm2'],
    ['none where none is allowed', { allow: [] }, 'm1', null],
    ['what is named', { allow: ['m2'], defaultModel: 'm9' }, 'm1', 'm9'],
    ['none where that is asked for', { defaultModel: null }, 'm1', null],
  ])('%s', (_, models, offered, expected) => {
    expect(withDefaultModel(models, offered).defaultModel).toBe(expected);
  });
});

describe('makeSpec', () => {
  it('defaults: the medium size, no timeout, every model, a new id', () => {
    const one = makeSpec({}, 2);
    const two = makeSpec({}, 2);
    expect(one).toMatchObject({ ...DEFAULTS, timeoutMs: null, env: {}, warm: [] });
    expect(one.models).toEqual(NO_MODEL_POLICY);
    expect(one.id).toMatch(/^[a-z0-9]{20}$/);
    expect(one.id).not.toBe(two.id);
  });

  const bad: [string, SandboxOptions, string][] = [
    ['more CPUs than the host has', { cpus: 3 }, 'cpus'],
    ['no CPU', { cpus: 0 }, 'cpus'],
    ['half a CPU', { cpus: 1.5 }, 'cpus'],
    ['not a number', { memoryMib: Number.NaN }, 'memoryMib'],
    ['too little memory', { memoryMib: 16 }, 'memoryMib'],
    ['a maximum below', { memoryMib: 512, memoryMaxMib: 511 }, 'memoryMaxMib'],
    ['a maximum far beyond', { memoryMib: 128, memoryMaxMib: 2049 }, 'memoryMaxMib'],
    ['half a maximum', { memoryMib: 128, memoryMaxMib: 200.5 }, 'memoryMaxMib'],
    ['a disk beyond the limit', { diskMib: 1e9 }, 'diskMib'],
    ['a time of zero', { timeoutMs: 0 }, 'timeoutMs'],
    ['a variable name with a space', { env: { 'a b': '1' } }, 'env'],
    ['a value with NUL', { env: { A: 'x\0y' } }, 'env'],
    ['an environment that is too large', { env: { A: 'x'.repeat(40_000) } }, 'env.A'],
    ['a module name that is code', { warm: ['os;import sys'] }, 'warm.0'],
    ['a model name with a newline', { models: { defaultModel: 'a\nb' } }, 'models.defaultModel'],
    ['a priority that is none', { models: { priority: 'first' as never } }, 'models.priority'],
    ['a budget of nothing', { models: { budget: { requests: 0 } } }, 'models.budget.requests'],
    ['a window without a limit', { models: { budget: { windowMs: 1000 } } }, 'models.budget'],
    ['a field with a space', { models: { allowFields: ['a b'] } }, 'models.allowFields.0'],
    ['an empty part of a field', { models: { allowFields: ['messages.'] } }, 'models.allowFields.0'],
    ['a long field', { models: { allowFields: ['x'.repeat(201)] } }, 'models.allowFields.0'],
    ['65 fields', { models: { allowFields: Array.from({ length: 65 }, (_, n) => `f${n}`) } }, 'models.allowFields'],
    ['no connections', withLimits({ connectionsMax: 0 }), 'network.limits.connectionsMax'],
    ['half a byte', withLimits({ bytesMax: 0.5 }), 'network.limits.bytesMax'],
    ['a crawl', withLimits({ uploadBytesPerSecond: 1 }), 'network.limits.uploadBytesPerSecond'],
    ['a channel that stands', { channelLimits: { connections: SLOW } }, 'channelLimits.connections.size'],
    [
      'a channel that crawls',
      { channelLimits: { hostToGuestBytes: { size: 16_384, refillPerSecond: 16_383 } } },
      'channelLimits.hostToGuestBytes.refillPerSecond',
    ],
    [
      'a burst that is not a number',
      { channelLimits: { connections: { size: 1, refillPerSecond: 1, oneTimeBurst: Number.NaN } } },
      'channelLimits.connections.oneTimeBurst',
    ],
    ['an empty alias', { models: { aliases: { '': 'b' } } }, 'models.aliases'],
  ];
  it('channelLimits: the minimum still serves the host’s own operations, fractions included', () => {
    const connections = { size: 1, refillPerSecond: 1.5, oneTimeBurst: 0.5 };
    const hostToGuestBytes = { size: 16_384, refillPerSecond: 16_384 };
    const channelLimits = { connections, hostToGuestBytes };
    expect(makeSpec({ channelLimits }, 2).channelLimits).toEqual(channelLimits);
  });

  it('cpus: exceeding the product’s limit and exceeding this host are two errors', () => {
    expect(() => makeSpec({ cpus: 16 }, 2)).toThrow('16 is more than the 2 of this host');
    expect(() => makeSpec({ cpus: 64 }, 2)).toThrow('expected a whole number from 1 to 32, not 64');
  });

  it.each(bad)('refuses %s and names the field', (_what, options, field) => {
    expect(() => makeSpec(options, 2, parseEgress)).toThrow(
      expect.objectContaining({ code: 'spec_invalid', message: expect.stringContaining(`option ${field}:`) }),
    );
  });
});
