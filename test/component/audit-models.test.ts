/** The log of requests to models, written by a real bridge, and `neurovisor audit verify`. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { AuditLog } from '../../src/tenants/audit.ts';
import { noteModelRequest } from '../../src/tenants/audit-models.ts';
import { bridgeFixture } from '../support/bridge-fixture.ts';
import { cli } from '../support/cli.ts';

let home: string;
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'nv-audit-'));
  const calls = await AuditLog.open({ homeDir: home, clock: systemClock, log: silentLog });
  const caller = { tenant: null, key: 'socket' };
  calls.note({ caller, call: 'POST /v1/sandboxes', target: null, status: 201, ms: 1 });
  await calls[Symbol.asyncDispose]();
});
afterEach(() => rm(home, { recursive: true }));

const verify = async (...args: string[]) =>
  await cli(['audit', 'verify', ...args], { env: { NEUROVISOR_HOME: home } }).result;

it('has who, how much and how long, not what; verify finds a changed record', async () => {
  const log = await AuditLog.open({
    homeDir: home,
    kind: 'models',
    clock: systemClock,
    log: silentLog,
  });
  const fixture = await bridgeFixture();
  for (let n = 0; n < 3; n += 1) {
    const settled = fixture.nextUsage();
    const messages = [{ role: 'user', content: 'SECRET-PROMPT' }];
    await fixture.call('/v1/chat/completions', { model: 'm1', messages });
    noteModelRequest(log, 'acme', await settled);
  }
  await fixture.close();
  await log[Symbol.asyncDispose]();
  const path = join(home, 'audit', 'models', 'audit.jsonl');
  const text = await readFile(path, 'utf8');
  expect(text).not.toMatch(/SECRET-PROMPT|hello/);
  const [first = ''] = text.split('\n');
  expect(JSON.parse(first)).toMatchObject({
    tenant: 'acme',
    key: 'sandbox',
    call: 'MODEL chat',
    target: 'sandbox-a',
    status: 200,
    model: { name: 'm1', promptTokens: 3, completionTokens: 2, estimated: false, outcome: 'ok' },
  });
  const { status, stdout } = await verify('-o', 'json');
  expect(status).toBe(0);
  expect(JSON.parse(stdout)).toMatchObject({
    ok: true,
    records: 1,
    models: { records: 3, firstAt: expect.stringMatching(/^2\d{3}-/), lastSeq: 3, problems: [] },
  });

  await writeFile(path, text.replace('"promptTokens":3', '"promptTokens":9'));
  const changed = await verify();
  expect(changed.status).toBe(1);
  expect(changed.stdout).toContain(`${path} line 1: it was changed`);
  await writeFile(path, text.split('\n').slice(0, 2).join('\n'));
  expect((await verify()).stdout).toContain('records 3 to 3 are missing at the end');
});

it('a home of an older daemon has no such log', async () => {
  const { status, stdout } = await verify('-o', 'json');
  expect([status, JSON.parse(stdout)]).toMatchObject([0, { ok: true, records: 1, models: null }]);
});
