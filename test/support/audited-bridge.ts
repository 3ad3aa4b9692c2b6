/** A bridge whose requests are recorded in the log of a home, as by the daemon. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { AuditLog } from '../../src/api/tenants/audit.ts';
import { modelRequestLog } from '../../src/api/tenants/audit-models.ts';
import { type AuditRecord, parseRecord } from '../../src/api/tenants/audit-record.ts';
import { CleanupStack } from '../../src/base/cleanup.ts';
import { systemClock } from '../../src/base/clock.ts';
import { ifThere } from '../../src/base/errors.ts';
import { silentLog } from '../../src/base/log.ts';
import type { ContentMode } from '../../src/base/text/content-mode.ts';
import type { BridgePolicy } from '../../src/inference/bridge/bridge.ts';
import type { Price } from '../../src/inference/bridge/budget/price.ts';
import { Player } from '../../src/inference/bridge/tape/player.ts';
import type { Tape } from '../../src/inference/bridge/tape/tape.ts';
import type { UpstreamApi } from '../../src/inference/bridge/upstream/address.ts';
import { type BridgeFixture, bridgeFixture } from './bridge-fixture.ts';
import { type MockUpstream, startMockUpstream } from './mock-upstream.ts';

export interface AuditedBridge {
  readonly home: string;
  /** The current file of a log of the sandboxes' tenant, `acme`. */
  path(kind: 'models' | 'content'): string;
  readonly fixture: BridgeFixture;
  readonly upstream: MockUpstream;
  /** All records so far, once there are `count` of them. */
  records(count: number): Promise<readonly AuditRecord[]>;
  /** The raw lines of a log. */
  text(kind?: 'models' | 'content'): Promise<string>;
  /** Ends the bridge and the log; the home stays. */
  end(): Promise<void>;
  close(): Promise<void>;
}

/** A bridge with an upstream `shop` and the models `m1`, which has a price, and `hosted`, which leaves the host. */
export async function auditedBridge(
  options: {
    readonly policy?: BridgePolicy;
    readonly api?: UpstreamApi;
    readonly price?: Price;
    readonly content?: ContentMode;
    readonly tape?: Tape;
  } = {},
): Promise<AuditedBridge> {
  const { price = { input: 1_000_000, output: 2_000_000, cachedInput: 0 }, policy = {} } = options;
  const { api = 'openai', content = 'off', tape } = options;
  const cleanup = new CleanupStack();
  const home = await mkdtemp(join(tmpdir(), 'nv-audit-'));
  cleanup.push('home', () => rm(home, { recursive: true, force: true }));
  const upstream = await startMockUpstream();
  cleanup.push('upstream', () => upstream.close());
  const ending = new CleanupStack();
  cleanup.push('bridge', () => ending.run());
  const log = { homeDir: home, clock: systemClock, log: silentLog };
  const models = await AuditLog.open({ ...log, kind: 'models' });
  ending.push('log', () => models[Symbol.asyncDispose]());
  const contents = await AuditLog.open({ ...log, kind: 'content' });
  ending.push('contents', () => contents[Symbol.asyncDispose]());
  const place = {
    target: () => Promise.resolve({ ...upstream.target, api }),
    answerWithinMs: null,
    discover: false,
    api,
  };
  const model = (name: string) => ({
    routes: [{ upstream: name, model: `${name}-m1`, weight: 1, price }],
    fallback: [],
    fallbackOn: new Set(['connect'] as const),
  });
  const routes = {
    upstreams: [
      { ...place, name: 'shop', isHosted: false },
      { ...place, name: 'cloud', isHosted: true },
    ],
    models: new Map([
      ['m1', model('shop')],
      ['hosted', model('cloud')],
    ]),
  };
  const player = tape instanceof Player ? tape : undefined;
  const fixture = await bridgeFixture({
    policy,
    ...(player === undefined ? { routes } : { upstream: () => Promise.resolve(player.target) }),
    requestLog: modelRequestLog(models, contents, () => 'acme'),
    content,
    tape,
  });
  ending.push('bridge', () => fixture.close());
  const path = (kind: 'models' | 'content'): string => join(home, 'audit', 'tenants', 'acme', kind, 'audit.jsonl');
  const text = async (kind: 'models' | 'content' = 'models'): Promise<string> => {
    await (kind === 'models' ? models : contents).flush();
    return (await ifThere(readFile(path(kind), 'utf8'))) ?? '';
  };
  const records = async (count: number): Promise<readonly AuditRecord[]> => {
    for (;;) {
      const all = (await text()).split('\n').flatMap((line) => parseRecord(line) ?? []);
      if (all.length >= count) return all;
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  };
  return { home, path, fixture, upstream, records, text, end: () => ending.run(), close: () => cleanup.run() };
}
