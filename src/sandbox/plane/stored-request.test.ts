import { describe, expect, it } from 'vitest';
import { parseEgress as parseRules } from '../../host/runtime/network.ts';
import { lifetimePolicyOf } from '../contract/request.ts';
import { makeSpec, withoutIdentity } from '../contract/spec.ts';
import { formatRequest, parseRequest } from './stored-request.ts';

const parseEgress = (): never => {
  throw new Error('no network here');
};
const origin = 'boot';
const spec = makeSpec({ models: { allow: ['m'], allowFields: ['enable_search'] } }, 4);
const stored = (): string =>
  formatRequest({
    spec,
    policy: lifetimePolicyOf({}),
    origin,
    template: 'data',
    isDiskOnly: true,
    pauseReason: 'host-memory',
    timeoutLeftMs: null,
    lastEvent: 1024,
  });
const parsed = (requestJson: string) => parseRequest({ requestJson, metadata: {} }, parseEgress);

describe('parseRequest', () => {
  it('keeps the models that a sandbox may use, and the fields that its requests may have', () => {
    expect(parsed(stored())?.spec.models).toEqual(spec.models);
    expect(withoutIdentity(spec).models).toEqual(spec.models);
  });

  it('keeps the pause reason; an older row has none', () => {
    expect(parsed(stored())?.pauseReason).toBe('host-memory');
    const { pauseReason: _, ...older } = JSON.parse(stored()) as Record<string, unknown>;
    expect(parsed(JSON.stringify(older))?.pauseReason).toBeNull();
  });

  it('keeps the reserved numbers of events; an older row has none', () => {
    expect(parsed(stored())?.lastEvent).toBe(1024);
    const { lastEvent: _, ...older } = JSON.parse(stored()) as Record<string, unknown>;
    expect(parsed(JSON.stringify(older))?.lastEvent).toBe(0);
  });

  it('keeps the template’s name; an older row has none', () => {
    expect(parsed(stored())?.template).toBe('data');
    const { template: _, ...older } = JSON.parse(stored()) as Record<string, unknown>;
    expect(parsed(JSON.stringify(older))?.template).toBeNull();
  });

  it('keeps whether a pause has no memory; in an older row it has', () => {
    expect(parsed(stored())?.isDiskOnly).toBe(true);
    const { isDiskOnly: _, ...older } = JSON.parse(stored()) as Record<string, unknown>;
    expect(parsed(JSON.stringify(older))?.isDiskOnly).toBe(false);
  });

  it('allows no fields if an older row names none', () => {
    const { allowFields: _, allowHosted: _none, ...models } = spec.models;
    const older = JSON.stringify({ ...JSON.parse(stored()), spec: { ...spec, models } });
    expect(parsed(older)?.spec.models).toEqual({ ...models, allowFields: [], allowHosted: [] });
  });

  it('keeps a budget’s usage; an older row has spent no money', () => {
    const used = { inputTokens: 1, outputTokens: 2, requests: 3, window: 4 };
    const accountOf = (more: object) =>
      parsed(
        JSON.stringify({
          ...JSON.parse(stored()),
          spec: { ...spec, modelAccount: { id: 'a', used: { ...used, ...more } } },
        }),
      )?.spec.modelAccount;
    expect(accountOf({ costNanoDollars: 5 })?.used).toEqual({ ...used, costNanoDollars: 5 });
    expect(accountOf({})?.used).toEqual({ ...used, costNanoDollars: 0 });
  });

  it('keeps the places of a secret; in an older row they are the credential fields', () => {
    const places = [{ in: 'query', name: 'key' }] as const;
    const placesOf = (json: string) =>
      parseRequest({ requestJson: json, metadata: {} }, parseRules)?.spec.secrets[0]?.places;
    const storedWith = (options: object): string => {
      const secret = { name: 'KEY', hosts: ['a.example'], value: 'v'.repeat(32), ...options };
      const withSecret = makeSpec({ secrets: [secret] }, 4, parseRules);
      return formatRequest({
        spec: withSecret,
        policy: lifetimePolicyOf({}),
        origin,
        template: null,
        isDiskOnly: false,
        pauseReason: null,
        timeoutLeftMs: null,
        lastEvent: 1024,
      });
    };
    expect(placesOf(storedWith({ places }))).toEqual(places);
    const older = storedWith({}).replace('"places":[],', '');
    expect(older).not.toContain('places');
    expect(placesOf(older)).toEqual([]);
  });
});
