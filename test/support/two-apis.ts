/** A bridge with a scripted server of Anthropic's API and one of OpenAI's. */
import { CleanupStack } from '../../src/base/cleanup.ts';
import type { BridgePolicy, UpstreamTarget } from '../../src/inference/bridge/bridge.ts';
import type { RoutedModel, RouteTable } from '../../src/inference/bridge/routing/route-table.ts';
import { type BridgeFixture, bridgeFixture } from './bridge-fixture.ts';
import { sendAnswer } from './completions.ts';
import { sendMessage } from './messages.ts';
import { type MockUpstream, startMockUpstream } from './mock-upstream.ts';

export const CLAUDE_KEY = 'sk-ant-host-0123456789';

export interface TwoApis {
  readonly cleanup: CleanupStack;
  /** Speaks Anthropic's API. */
  readonly claude: MockUpstream;
  readonly local: MockUpstream;
  /**
   * `m1` is Anthropic's, `own` is of OpenAI's API, `both` prefers the first and `late` the second; `unpriced` is `m1`
   * at an unknown price.
   */
  bridge(policy?: BridgePolicy, options?: Parameters<typeof bridgeFixture>[0]): Promise<BridgeFixture>;
}

export async function twoApis(): Promise<TwoApis> {
  const cleanup = new CleanupStack();
  const claude = await startMockUpstream({ models: ['m1'], apiKey: CLAUDE_KEY });
  const local = await startMockUpstream({ models: ['own'] });
  cleanup.push('claude', () => claude.close());
  cleanup.push('local', () => local.close());
  claude.answer(({ body }, response) => sendMessage(body, response, { text: 'hi there' }));
  local.answer(({ body }, response) => sendAnswer(body, response, { text: 'from local' }));
  return {
    cleanup,
    claude,
    local,
    async bridge(policy = {}, options = {}) {
      const routes = routesTo(claude.target, local.target);
      const fixture = await bridgeFixture({ routes, policy, ...options });
      cleanup.push('bridge', () => fixture.close());
      return fixture;
    },
  };
}

function routesTo(claude: UpstreamTarget, local: UpstreamTarget): RouteTable {
  const upstream = (name: string, target: UpstreamTarget) => ({
    name,
    target: () => Promise.resolve(target),
    isHosted: false,
    answerWithinMs: null,
    discover: false,
    api: target.api ?? 'openai',
  });
  const fallbackOn = new Set(['connect', '429', '5xx'] as const);
  const model = (name: string, at: string, fallback: string[] = []): [string, RoutedModel] => [
    name,
    { routes: [{ upstream: at, model: name, weight: 1 }], fallback, fallbackOn },
  ];
  return {
    upstreams: [
      upstream('claude', { ...claude, name: 'claude', api: 'anthropic' }),
      upstream('local', { ...local, name: 'local' }),
    ],
    models: new Map([
      model('m1', 'claude'),
      model('own', 'local'),
      model('both', 'claude', ['own']),
      model('late', 'local', ['m1']),
      ['unpriced', { routes: [{ upstream: 'claude', model: 'm1', weight: 1, price: null }], fallback: [], fallbackOn }],
    ]),
  };
}

export const sentTo = (mock: MockUpstream) => JSON.parse(mock.requests.at(-1)?.body ?? '{}');

export const errorOf = (body: string) => (JSON.parse(body) as { error: Record<string, unknown> }).error;
