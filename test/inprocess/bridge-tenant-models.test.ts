/** The operator's list of models for a tenant, in each API that guests speak. */
import { afterEach, describe, expect, it } from 'vitest';
import { type BridgeFixture, bridgeFixture } from '../support/bridge-fixture.ts';

let fixture: BridgeFixture;
afterEach(() => fixture?.close());

const messages = [{ role: 'user', content: 'hello' }];
const TENANTS: Record<string, readonly string[] | undefined> = { acme: ['qwen*'], none: [], all: ['*'] };
const open = async (tenant: string | null, policy: object = {}): Promise<BridgeFixture> =>
  await bridgeFixture({
    models: ['qwen:7b', 'llama:8b'],
    policy,
    tenantOf: () => tenant,
    modelsOf: (name) => (name === null ? undefined : TENANTS[name]),
  });

describe('bridge: models of a tenant', () => {
  it.each([
    ['/v1/chat/completions', { messages }],
    ['/v1/messages', { messages, max_tokens: 5 }],
    ['/v1/responses', { input: 'hello' }],
    ['/api/chat', { messages, stream: false }],
  ])('%s: a model that is not in the list is refused, and no server is asked', async (path, body) => {
    fixture = await open('acme');
    const refused = await fixture.call(path, JSON.stringify({ model: 'llama:8b', ...body }));
    expect(refused.status).toBe(403);
    expect(refused.body).toContain('does not allow this sandbox the model \\"llama:8b\\". Available: qwen:7b.');
    expect(fixture.mock.requests.filter(({ path: asked }) => asked !== '/v1/models')).toEqual([]);
    expect((await fixture.call(path, JSON.stringify({ model: 'qwen:7b', ...body }))).status).toBe(200);
  });

  it('lists show only the tenant’s', async () => {
    fixture = await open('acme');
    for (const path of ['/v1/models', '/api/tags']) {
      const { body } = await fixture.call(path);
      expect([body.includes('qwen:7b'), body.includes('llama')]).toEqual([true, false]);
    }
    expect((await fixture.call('/v1/models/llama:8b')).status).toBe(403);
  });

  it('no alias, default or list of its own leads around it', async () => {
    const own = { aliases: { mine: 'llama:8b' }, defaultModel: 'llama:8b', allowModels: ['llama:8b', 'qwen:7b'] };
    fixture = await open('acme', own);
    for (const model of ['mine', 'default', 'gpt-4o-mini', 'llama:8b', undefined]) {
      const answer = await fixture.call('/v1/chat/completions', JSON.stringify({ model, messages }));
      expect([model, answer.status]).toEqual([model, 403]);
    }
    expect(JSON.parse((await fixture.call('/v1/models')).body).data).toMatchObject([{ id: 'qwen:7b' }]);
  });

  it('the operator’s sandboxes, and tenants with *, have all; an empty list has none', async () => {
    const ask = async (tenant: string | null) => {
      fixture = await open(tenant);
      const answer = await fixture.call('/v1/chat/completions', JSON.stringify({ model: 'llama:8b', messages }));
      await fixture.close();
      return answer.status;
    };
    expect([await ask(null), await ask('all'), await ask('none')]).toEqual([200, 200, 403]);
  });

  it('a change holds for the next request', async () => {
    fixture = await open('acme');
    const ask = async () => {
      const answer = await fixture.call('/v1/chat/completions', JSON.stringify({ model: 'llama:8b', messages }));
      return answer.status;
    };
    expect(await ask()).toBe(403);
    TENANTS['acme'] = ['llama*'];
    expect(await ask()).toBe(200);
    TENANTS['acme'] = ['qwen*'];
  });
});
