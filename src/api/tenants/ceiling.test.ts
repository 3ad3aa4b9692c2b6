import { describe, expect, it } from 'vitest';
import { FakeControlPlane } from '../../../test/support/fake-control-plane.ts';
import { MODEL_PRIORITIES } from '../../base/request/model-limits.ts';
import { privateRules } from '../../host/runtime/network.ts';
import type { CreateRequest } from '../../sandbox/contract/control.ts';
import { type Asker, checkCreate, checkFork, checkUpdate, completeImage } from './ceiling.ts';
import { tenantPlane } from './plane.ts';
import { type Ceiling, UNSET_CEILING } from './settings.ts';

const asker = (ceiling: Partial<Ceiling> = {}): Asker => ({
  tenant: 'acme',
  ceiling: { ...UNSET_CEILING, ...ceiling },
  privateRules,
});
const network = (...allow: string[]) => ({ network: { mode: 'allowlist', allow } }) as const satisfies CreateRequest;
const outcome = (work: () => unknown): string => {
  try {
    work();
    return 'allowed';
  } catch (error) {
    return `${Reflect.get(error as Error, 'code')} ${(error as Error).message}`;
  }
};
const created = (request: CreateRequest, ceiling?: Partial<Ceiling>): string =>
  outcome(() => checkCreate(request, asker(ceiling)));

describe('networks', () => {
  const privates = ['10.0.0.0/8', '10.0.0.5', '10.0.0.5:6443', '192.168.1.0/24:1-99/udp', '100.64.0.1', '127.0.0.1:80'];

  it.each(privates)('%s: refused to a tenant, at creation and later', (rule) => {
    const refused = `forbidden network.allow: ${rule}: not for this key`;
    expect(created(network('example.com', rule))).toBe(refused);
    expect(outcome(() => checkUpdate(network(rule), asker()))).toBe(refused);
  });

  it('names and addresses of the internet are free, and 0.0.0.0/0 means the internet', () => {
    expect(
      created(network('example.com', '*.internal', '8.8.8.8:53/udp', '0.0.0.0/0', 'GET https://a.example/b')),
    ).toBe('allowed');
    expect(created({ network: null })).toBe('allowed');
    expect(created({ network: { mode: 'open', deny: ['10.0.0.0/8'] } })).toBe('allowed');
  });

  it('a block that the operator listed is allowed, with all inside it and nothing around it', () => {
    const ceiling = { allowNet: ['10.1.0.0/16', '192.168.1.1'] };
    expect(created(network('10.1.0.0/16', '10.1.2.3:443', '192.168.1.1'), ceiling)).toBe('allowed');
    expect(created(network('10.0.0.0/15', '10.1.0.0/16', '192.168.1.2'), ceiling)).toBe(
      'forbidden network.allow: 10.0.0.0/15, 192.168.1.2: not for this key',
    );
  });

  it('a rule that is none is named as for every caller', () => {
    expect(created(network('10.0.0.1/8'))).toMatch(/^spec_invalid sandbox option network: egress rule "10.0.0.1\/8"/);
  });
});

describe('models', () => {
  it('fields pass only from the operator’s list, with all below them', () => {
    const ask = (...allowFields: string[]) => ({ models: { allowFields } });
    expect(created(ask('messages.content', 'store'))).toBe(
      'forbidden models.allowFields: messages.content, store: not for this key',
    );
    const ceiling = { allowFields: ['messages.content'] };
    expect(created(ask('messages.content', 'messages.content.uuid'), ceiling)).toBe('allowed');
    expect(created(ask('messages', 'messages.contents'), ceiling)).toBe(
      'forbidden models.allowFields: messages, messages.contents: not for this key',
    );
  });

  it('any priority is allowed: it orders the tenant’s own requests alone', () => {
    for (const priority of MODEL_PRIORITIES) expect(created({ models: { priority } })).toBe('allowed');
  });
});

describe('images and templates', () => {
  it.each([
    ['python', 'docker.io/library/python:latest'],
    ['python:3.13', 'docker.io/library/python:3.13'],
    ['docker.io/python:3.13', 'docker.io/library/python:3.13'],
    ['index.docker.io/acme/x', 'docker.io/acme/x:latest'],
    ['index.example.com/acme/x', 'index.example.com/acme/x:latest'],
    ['docker://ghcr.io/acme/x:1', 'ghcr.io/acme/x:1'],
    ['localhost:5000/x', 'localhost:5000/x:latest'],
    ['localhost/x', 'localhost/x:latest'],
    [`acme/x@sha256:${'0'.repeat(64)}`, `docker.io/acme/x@sha256:${'0'.repeat(64)}`],
    [`sha256:${'0'.repeat(64)}`, `sha256:${'0'.repeat(64)}`],
    ['docker-archive:/a.tar', 'docker-archive:/a.tar'],
  ])('%s is %s', (image, complete) => expect(completeImage(image)).toBe(complete));

  it('an image is allowed by its complete name', () => {
    const ceiling = { allowImages: ['docker.io/library/python:*', 'ghcr.io/acme/*'] };
    for (const image of ['python', 'python:3.13-slim', 'docker.io/library/python', 'ghcr.io/acme/a/b:1']) {
      expect([image, created({ image }, ceiling)]).toEqual([image, 'allowed']);
    }
    for (const image of ['python.example.com/x', 'acme/python', 'index.ghcr.io/acme/x', `sha256:${'0'.repeat(64)}`]) {
      expect(created({ image }, ceiling)).toBe(`forbidden image: ${image}: not for this key`);
      expect(created({ image })).toBe('allowed');
    }
    expect(created({}, { allowImages: [], allowTemplates: [] })).toBe('allowed');
  });

  it('a template is allowed by its name; one that a client has built always', () => {
    const ceiling = { allowTemplates: ['data-*'] };
    expect(created({ template: 'data-1' }, ceiling)).toBe('allowed');
    expect(created({ template: 'e2b-00000000-0000-4000-8000-000000000000' }, ceiling)).toBe('allowed');
    expect(created({ template: 'agent' }, ceiling)).toBe('forbidden template: agent: not for this key');
    expect(created({ template: 'agent' })).toBe('allowed');
  });
});

describe('sizes and timeouts', () => {
  const most = { cpusMax: 2, memoryMaxMib: 1024, diskMaxMib: 4096, timeoutMaxMs: 60_000 };

  it.each<[CreateRequest, string]>([
    [{ cpus: 3 }, 'cpus: 3 is above 2'],
    [{ memoryMib: 1025 }, 'memoryMib: 1025 is above 1024'],
    [{ memoryMib: 512, memoryMaxMib: 2048 }, 'memoryMaxMib: 2048 is above 1024'],
    [{ diskMib: 4097 }, 'diskMib: 4097 is above 4096'],
    [{ timeoutMs: 60_001 }, 'timeoutMs: 60001 is above 60000'],
    [{ timeoutMs: null }, 'timeoutMs: no limit is above 60000'],
  ])('%j: refused above the maximum', (request, refused) => {
    expect(created(request, most)).toBe(`forbidden ${refused}, the maximum for this key`);
    expect(created(request)).toBe('allowed');
  });

  it('the maximum itself is allowed, and what a request does not name', () => {
    const whole = { cpus: 2, memoryMib: 64, memoryMaxMib: 1024, diskMib: 4096, timeoutMs: 60_000 };
    expect([created(whole, most), created({}, most)]).toEqual(['allowed', 'allowed']);
  });

  it('changes and forks are judged, too', async () => {
    await using control = new FakeControlPlane();
    const plane = tenantPlane(control, 'acme', { ceilingOf: () => ({ ...UNSET_CEILING, ...most }) });
    const { id } = await plane.create({ timeoutMs: 1000 });
    for (const timeoutMs of [60_001, null]) {
      await expect(plane.update(id, { timeoutMs })).rejects.toMatchObject({ code: 'forbidden' });
      await expect(plane.fork(id, { count: 1, timeoutMs })).rejects.toMatchObject({ code: 'forbidden' });
    }
    await plane.update(id, { timeoutMs: 60_000 });
    await expect(plane.update(id, { memoryMib: 2048 })).rejects.toThrow('memoryMib: 2048 is above 1024');
    const large = await control.create({ cpus: 4, annotations: { tenant: 'acme' } });
    await expect(plane.fork(large.id, { count: 1 })).rejects.toThrow('cpus: 4 is above 2');
  });
});

it('a refusal names the field, what is allowed, and the operator’s command', () => {
  expect(() => checkCreate({ models: { allowFields: ['store'] } }, asker({ allowFields: ['seed_2'] }))).toThrow(
    expect.objectContaining({
      code: 'forbidden',
      remedy: 'allowed: seed_2; the operator sets that by neurovisor tenant set acme --allow-field',
    }),
  );
});

it('fork: what the original has is judged anew, since the ceiling may be lower now', async () => {
  await using control = new FakeControlPlane();
  const ceilings: Ceiling[] = [{ ...UNSET_CEILING, allowNet: ['10.0.0.0/8'], allowFields: ['store'] }];
  const ceilingOf = () => ceilings.at(-1) ?? UNSET_CEILING;
  const plane = tenantPlane(control, 'acme', { ceilingOf, privateRules });
  const open = await plane.create(network('10.0.0.5'));
  const unchecked = await plane.create({ models: { allowFields: ['store'] } });
  const plain = await plane.create(network('example.com'));
  const fork = (id: string) => plane.fork(id, { count: 1 });
  for (const { id } of [open, unchecked, plain]) expect(await fork(id)).toMatchObject([{ ok: true }]);
  ceilings.push(UNSET_CEILING);
  expect(await fork(plain.id)).toMatchObject([{ ok: true }]);
  await expect(fork(open.id)).rejects.toThrow('network.allow: 10.0.0.5: not for this key');
  await expect(fork(unchecked.id)).rejects.toThrow('models.allowFields: store: not for this key');
  expect(outcome(() => checkFork(plain, { count: 2 }, asker()))).toBe('allowed');
});

it('without a judge of addresses, no rule of a tenant passes', async () => {
  await using control = new FakeControlPlane();
  const plane = tenantPlane(control, 'acme');
  await expect(plane.create(network('example.com'))).rejects.toMatchObject({ code: 'forbidden' });
  await plane.create({ network: { mode: 'open' } });
});

it('host: tells a tenant nothing about the model server’s address', async () => {
  await using control = new FakeControlPlane();
  const host = await control.host();
  Object.assign(control, { host: async () => ({ ...host, upstream: 'Ollama at 10.0.0.5:11434' }) });
  expect((await tenantPlane(control, 'acme').host()).upstream).toBe('model server');
});
