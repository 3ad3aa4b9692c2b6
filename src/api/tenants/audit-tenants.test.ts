/** Logs of several tenants beside the operator's. */
import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { AuditLog, type AuditParts, auditFailuresMetric } from './audit.ts';
import { AUDIT_LIMITS, type AuditedCall } from './audit-chain.ts';
import { checkAudit, findRequest, listAudit } from './audit-listing.ts';
import { type AuditRecord, parseRecord } from './audit-record.ts';
import { verifyAudit, verifyAuditFiles } from './audit-verify.ts';

let home: string;
let clock: FakeClock;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-audit-'));
  clock = new FakeClock();
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

const openLog = (more: Partial<AuditParts> = {}): Promise<AuditLog> =>
  AuditLog.open({ homeDir: home, clock, log: silentLog, ...more });
const call = (tenant: string | null, target = 'x'): AuditedCall => ({
  caller: { tenant, key: 'k' },
  call: 'POST /v1/sandboxes',
  target,
  status: 201,
  ms: 1,
});
const dirOf = (tenant: string): string => join(home, 'audit', 'tenants', tenant);
const fileOf = (tenant: string): string => join(dirOf(tenant), 'audit.jsonl');
const linesOf = (path: string): string[] => readFileSync(path, 'utf8').trimEnd().split('\n');
async function listed(listing: Parameters<typeof listAudit>[1] = {}): Promise<AuditRecord[]> {
  const all: AuditRecord[] = [];
  for await (const record of listAudit(home, { log: 'calls', ...listing })) all.push(record);
  return all;
}

describe('AuditLog of tenants', () => {
  it('a tenant that floods rotates only its own log', async () => {
    await using log = await openLog({ limits: { fileBytesMax: 1000, filesMax: 3 } });
    log.note(call(null));
    log.note(call('quiet'));
    await log.flush();
    for (let n = 0; n < 200; n += 1) {
      log.note(call('loud'));
      await log.flush();
    }
    expect(await verifyAudit(home)).toMatchObject({ records: 1, removed: 0, problems: [] });
    expect(await verifyAudit(home, { tenant: 'quiet' })).toMatchObject({ records: 1, removed: 0, problems: [] });
    const loud = await verifyAudit(home, { tenant: 'loud' });
    expect(loud).toMatchObject({ lastSeq: 200, problems: [] });
    expect(loud.removed).toBe((loud.firstSeq ?? 0) - 1);
    expect(loud.removed).toBeGreaterThan(150);
    expect(readdirSync(dirOf('loud')).filter((name) => name.startsWith('audit-'))).toHaveLength(3);
    // Its files alone can be handed to it.
    const full = readdirSync(dirOf('loud')).filter((name) => name.startsWith('audit-'));
    const paths = [...full.sort(), 'audit.jsonl'].map((name) => join(dirOf('loud'), name));
    expect(await verifyAuditFiles(paths)).toMatchObject({ lastSeq: 200, problems: [] });
  });

  it('verify names a changed, a missing and a cut off record, and whose it is', async () => {
    {
      await using log = await openLog();
      for (const tenant of [null, 'acme', 'beta']) for (let n = 0; n < 4; n += 1) log.note(call(tenant));
    }
    const lines = linesOf(fileOf('acme'));
    const check = async (changed: readonly string[]) => {
      writeFileSync(fileOf('acme'), `${changed.join('\n')}\n`);
      const { ok, problemCount, tenants } = await checkAudit(home);
      expect([ok, problemCount, tenants.map(({ tenant }) => tenant)]).toEqual([false, 0, ['acme', 'beta']]);
      expect(tenants[1]).toMatchObject({ ok: true, records: 4, problems: [] });
      return tenants[0]?.problems;
    };
    const changed = lines.with(1, (lines[1] ?? '').replace('201', '202'));
    expect(await check(changed)).toEqual([`${fileOf('acme')} line 2: it was changed, record 3 does not match it`]);
    expect(await check(lines.toSpliced(1, 2))).toEqual([expect.stringContaining('records 2 to 3 are missing')]);
    expect(await check(lines.slice(0, 2))).toEqual(['records 3 to 4 are missing at the end']);
    expect(await check(lines.slice(1))).toEqual([expect.stringContaining('records 1 to 1 are missing')]);
    expect(await checkAudit(home, 'beta')).toMatchObject({ ok: true, records: 4, tenants: [] });
    await expect(checkAudit(home, 'nobody')).rejects.toMatchObject({ code: 'not_found' });
  });

  it('continues each chain in the next daemon; a line that a killed one wrote partly is cut off', async () => {
    for (let daemon = 0; daemon < 3; daemon += 1) {
      await using log = await openLog();
      // Cut off even if the tenant calls nothing.
      if (daemon > 0) expect(await checkAudit(home)).toMatchObject({ ok: true });
      for (const tenant of [null, 'acme', 'beta']) log.note(call(tenant));
      await log.flush();
      for (const path of [join(home, 'audit', 'audit.jsonl'), fileOf('acme'), fileOf('beta')]) {
        appendFileSync(path, `{"seq":${daemon + 2},"at":"20`);
      }
    }
    await using _ = await openLog();
    expect(await checkAudit(home)).toMatchObject({
      ok: true,
      records: 3,
      tenants: [
        { tenant: 'acme', firstSeq: 1, lastSeq: 3 },
        { tenant: 'beta', firstSeq: 1, lastSeq: 3 },
      ],
    });
  });

  it('a log of version 0.2, with the records of all, is whole, continued, and read beside the new ones', async () => {
    {
      await using log = await openLog();
      for (let n = 0; n < 3; n += 1) log.note(call(null, `old${n}`));
    }
    // As that version wrote it: the tenant is in the record, not in the path.
    const path = join(home, 'audit', 'audit.jsonl');
    rmSync(join(home, 'audit', 'head.json'));
    const [first = '', second = ''] = linesOf(path);
    const last = second.replace('"tenant":null', '"tenant":"acme"');
    writeFileSync(path, `${first}\n${last}\n`);
    clock.advance(1000);
    {
      await using log = await openLog();
      for (const tenant of [null, 'acme']) log.note(call(tenant, 'new'));
    }
    expect(await checkAudit(home)).toMatchObject({ ok: true, records: 3, tenants: [{ tenant: 'acme', records: 1 }] });
    expect(await listed({ tenant: 'acme' })).toMatchObject([
      { seq: 2, target: 'old1' },
      { seq: 1, target: 'new', log: 'acme' },
    ]);
    expect((await listed({ tenant: 'acme' }))[0]?.log).toBeUndefined();
  });

  it('what is not a tenant’s name becomes no path', async () => {
    await using log = await openLog();
    const names = ['../../escaped', '..', '', 'a/b', '_default', 'A', 'x'.repeat(32), 'a\u0000'];
    for (const name of names) log.note(call(name));
    await log.flush();
    expect(readdirSync(home)).toEqual(['audit']);
    expect(readdirSync(join(home, 'audit')).sort()).toEqual(['audit.jsonl', 'head.json']);
    expect(linesOf(join(home, 'audit', 'audit.jsonl')).map((line) => parseRecord(line)?.tenant)).toEqual(names);
    for (const tenant of names) {
      await expect(checkAudit(home, tenant)).rejects.toMatchObject({ code: 'invalid' });
      await expect(findRequest(home, 1, tenant)).rejects.toMatchObject({ code: 'invalid' });
      await expect(listed({ tenant })).rejects.toMatchObject({ code: 'invalid' });
    }
  });

  it('has one file of all tenants open at a time, and none between writes', async () => {
    const files = { open: 0, most: 0 };
    const openFile = async (path: string) => {
      const file = await open(path, 'a', 0o600);
      files.open += 1;
      files.most = Math.max(files.most, files.open);
      return {
        appendFile: (data: unknown) => file.appendFile(data as Buffer),
        truncate: (length?: number) => file.truncate(length),
        close: async () => {
          files.open -= 1;
          await file.close();
        },
      };
    };
    await using log = await openLog({ open: openFile });
    for (let n = 0; n < 100; n += 1) log.note(call(`t${n}`));
    await log.flush();
    // The operator's stays open.
    expect(files).toEqual({ open: 1, most: 2 });
    expect(readdirSync(join(home, 'audit', 'tenants'))).toHaveLength(100);
  });

  it('a full disk stops no call, is counted and logged once, and loses no record within the bounds', async () => {
    let isFull = true;
    const messages: string[] = [];
    const failures = auditFailuresMetric();
    const openFile = async (path: string) => {
      const file = await open(path, 'a', 0o600);
      return {
        appendFile: async (data: unknown) => {
          if (!isFull) return await file.appendFile(data as Buffer);
          await file.appendFile((data as Buffer).subarray(0, 7));
          throw new Error('ENOSPC');
        },
        truncate: (length?: number) => file.truncate(length),
        close: () => file.close(),
      };
    };
    const add = (message: string) => void messages.push(message);
    const reporting: Log = { ...silentLog, error: add, info: add };
    await using log = await openLog({ open: openFile, log: reporting, failures });
    for (let n = 0; n < 3; n += 1) {
      for (const tenant of ['acme', 'beta']) log.note(call(tenant));
      await log.flush();
    }
    expect(messages).toEqual(['the audit log can’t be written; calls go on']);
    expect(failures.samples().map(({ value }) => value)).toEqual([6]);
    isFull = false;
    await log.flush();
    expect(messages.at(-1)).toBe('the audit log is written again');
    for (const tenant of ['acme', 'beta']) {
      expect(await verifyAudit(home, { tenant })).toMatchObject({ records: 3, problems: [] });
    }
  });

  it('while nothing can be written, all tenants wait within one bound, and each keeps its own part', async () => {
    let isFull = true;
    const openFile = async (path: string) => {
      if (isFull) throw new Error('ENOSPC');
      return await open(path, 'a', 0o600);
    };
    // The operator's is open before.
    isFull = false;
    await using log = await openLog({ kind: 'content', open: openFile });
    isFull = true;
    const text = 'x'.repeat(100_000);
    const content = { mode: 'full', request: { bytes: 1, body: { text } }, answer: null } as const;
    const kept = (tenant: string): number => {
      let count = 0;
      while (log.note({ ...call(tenant), content }) !== null) count += 1;
      return count;
    };
    const { tenant: own, tenants } = AUDIT_LIMITS;
    const flood = Array.from({ length: 12 }, (_, n) => kept(`t${n}`));
    const lines = (characters: number): number => Math.ceil(characters / 100_200);
    expect(flood[0]).toBe(lines(own.waitingCharactersMax));
    expect(flood.reduce((sum, count) => sum + count, 0)).toBeLessThan(lines(tenants.waitingCharactersMax) + 12);
    expect(kept('quiet')).toBe(1);
    expect(log.note({ ...call(null), content })).not.toBeNull();
    isFull = false;
    await log.flush();
    log.note({ ...call('t0'), content });
    await log.flush();
    const last = readFileSync(join(dirOf('t0'), 'content', 'audit.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .at(-1);
    expect(parseRecord(last ?? '')?.lost).toBe(1);
    expect(await verifyAudit(home, { kind: 'content', tenant: 'quiet' })).toMatchObject({ records: 1, problems: [] });
  });

  it('a tenant’s lost records are reported at the end of its own log', async () => {
    {
      await using log = await openLog({ limits: { waitingMax: 1 } });
      for (let n = 0; n < 4; n += 1) log.note(call('acme'));
    }
    expect(linesOf(fileOf('acme')).map(parseRecord)).toMatchObject([{}, { tenant: 'acme', call: '(end)', lost: 3 }]);
    expect(linesOf(join(home, 'audit', 'audit.jsonl'))).toEqual(['']);
  });
});

describe('listAudit', () => {
  const owners = [null, ...Array.from({ length: 40 }, (_, n) => `t${n}`)];
  async function written(limits: AuditParts['limits'] = {}): Promise<void> {
    await using log = await openLog({ limits });
    for (let n = 0; n < 400; n += 1) {
      clock.advance(1);
      // A fixed mixture, in which some call often.
      log.note(call(owners[(n * n + (n % 7)) % owners.length] ?? null, `n${n}`));
      if (n % 10 === 0) await log.flush();
    }
  }

  it('merges all logs in the order of time, through many files', async () => {
    await written({ fileBytesMax: 1000, filesMax: 1000 });
    const records = await listed();
    expect(records.map(({ target }) => target)).toEqual(Array.from({ length: 400 }, (_, n) => `n${n}`));
    expect(records.every(({ log, tenant }) => (log ?? null) === tenant)).toBe(true);
  });

  it('has no file open between two records', async () => {
    await written();
    const openFiles = (): number => readdirSync('/proc/self/fd').length;
    const before = openFiles();
    const reading = listAudit(home, { log: 'calls' });
    for (let n = 0; n < 100; n += 1) {
      await reading.next();
      expect(openFiles()).toBeLessThanOrEqual(before);
    }
    await reading.return(undefined);
  });

  it('filters by tenant; a number is one of a single log', async () => {
    await written();
    const own = await listed({ tenant: 't3' });
    expect(own.length).toBeGreaterThan(3);
    expect(own.every(({ tenant, log }) => tenant === 't3' && log === 't3')).toBe(true);
    expect(await listed({ tenant: 't3', after: 2 })).toEqual(own.slice(2));
    const operators = await listed({ after: 0 });
    expect(operators.length).toBeGreaterThan(0);
    expect(operators.every(({ tenant }) => tenant === null)).toBe(true);
    expect(await listed({ tenant: 'nobody' })).toEqual([]);
  });

  it('finds the content of each record in the log of its tenant', async () => {
    await using models = await openLog({ kind: 'models' });
    await using contents = await openLog({ kind: 'content' });
    for (let n = 0; n < 60; n += 1) {
      clock.advance(1);
      const tenant = owners[n % 3] ?? null;
      const content = { mode: 'full', request: { bytes: 1, body: { n } }, answer: null } as const;
      // Some contents are not kept.
      const kept = n % 5 === 0 ? null : contents.note({ ...call(tenant), content });
      const model = {
        name: 'm',
        promptTokens: 1,
        completionTokens: 1,
        estimated: false,
        stream: false,
        outcome: 'ok',
        firstByteMs: 1,
      } as const;
      const named = kept === null ? {} : { content: { seq: kept.seq, sha256: kept.hash } };
      models.note({ ...call(tenant, `n${n}`), model: { ...model, ...named } });
    }
    await models.flush();
    await contents.flush();
    const records = await listed({ log: 'models', content: true });
    expect(records.map(({ content }) => content?.['request'])).toEqual(
      Array.from({ length: 60 }, (_, n) => (n % 5 === 0 ? undefined : { bytes: 1, body: { n } })),
    );
    expect(await findRequest(home, 3, 't0')).toMatchObject({ record: { target: 'n7' }, isChanged: false });
    const path = join(dirOf('t0'), 'content', 'audit.jsonl');
    writeFileSync(path, readFileSync(path, 'utf8').replace('"n":7', '"n":8'));
    expect(await findRequest(home, 3, 't0')).toMatchObject({ isChanged: true });
  });

  it('follows records of tenants that are new, too', async () => {
    await using log = await openLog({ limits: { fileBytesMax: 500, filesMax: 1000 } });
    const aborter = new AbortController();
    const seen: unknown[] = [];
    log.note(call(null, 'n0'));
    await log.flush();
    for await (const { target } of listAudit(home, { log: 'calls', follow: true, signal: aborter.signal })) {
      seen.push(target);
      if (seen.length === 1) {
        for (let n = 1; n < 30; n += 1) {
          clock.advance(1);
          log.note(call(`t${n % 4}`, `n${n}`));
          await log.flush();
        }
      }
      if (seen.length === 30) aborter.abort();
    }
    expect(seen).toEqual(Array.from({ length: 30 }, (_, n) => `n${n}`));
  });
});
