import { appendFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { type Log, silentLog } from '../../base/log.ts';
import { AuditLog, type AuditParts, auditFailuresMetric } from './audit.ts';
import { AUDIT_LIMITS, type AuditedCall } from './audit-chain.ts';
import { parseRecord } from './audit-record.ts';
import { verifyAudit, verifyAuditFiles } from './audit-verify.ts';

let home: string;
let errors: string[];
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-audit-'));
  errors = [];
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

const clock = new FakeClock();
const openLog = async (more: Partial<AuditParts> = {}): Promise<AuditLog> => {
  const log: Log = { ...silentLog, error: (message) => errors.push(message) };
  return await AuditLog.open({ homeDir: home, clock, log, ...more });
};
const call = (n: number): AuditedCall => ({
  caller: { tenant: null, key: 'socket' },
  call: 'POST /v1/sandboxes/:id/pause',
  target: `s${n}`,
  status: 200,
  ms: 1.4,
});
const current = (): string => join(home, 'audit', 'audit.jsonl');
const linesOf = (): string[] => readFileSync(current(), 'utf8').trimEnd().split('\n');
const write = (lines: readonly string[]): void => writeFileSync(current(), `${lines.join('\n')}\n`);
const problems = async (): Promise<readonly string[]> => (await verifyAudit(home)).problems;

async function filled(count: number): Promise<string[]> {
  await using log = await openLog();
  for (let n = 1; n <= count; n += 1) log.note(call(n));
  await log.flush();
  return linesOf();
}

describe('AuditLog', () => {
  it('keeps a record per call, in files that only their owner can read', async () => {
    const [first] = await filled(3);
    expect(parseRecord(first ?? '')).toMatchObject({
      seq: 1,
      tenant: null,
      key: 'socket',
      call: 'POST /v1/sandboxes/:id/pause',
      target: 's1',
      status: 200,
      ms: 1,
    });
    expect(await verifyAudit(home)).toMatchObject({ records: 3, lastSeq: 3, problems: [] });
    expect(statSync(current()).mode & 0o777).toBe(0o600);
    expect(statSync(join(home, 'audit')).mode & 0o777).toBe(0o700);
  });

  it('continues the chain in the next daemon, even after a partly written line', async () => {
    await filled(2);
    appendFileSync(current(), '{"seq":3,"at":"20');
    await filled(2);
    expect(await verifyAudit(home)).toMatchObject({ records: 4, lastSeq: 4, problems: [] });
  });

  it('rotates files, removes the oldest, and continues the chain through all', async () => {
    await using log = await openLog({ limits: { fileBytesMax: 500, filesMax: 3 } });
    for (let n = 1; n <= 40; n += 1) {
      log.note(call(n));
      await log.flush();
    }
    const full = readdirSync(join(home, 'audit')).filter((name) => name.startsWith('audit-'));
    expect(full).toHaveLength(3);
    const report = await verifyAudit(home, { filesMax: 3 });
    expect(report).toMatchObject({ lastSeq: 40, problems: [] });
    expect(report.firstSeq).toBeGreaterThan(1);
    expect(report.removed).toBe((report.firstSeq ?? 0) - 1);
    rmSync(join(home, 'audit', full.sort()[1] ?? ''));
    expect((await verifyAudit(home, { filesMax: 2 })).problems).toEqual([
      expect.stringMatching(/records \d+ to \d+ are missing/),
    ]);
  });

  it('verify: a beginning that was removed by hand, or put in place of another, differs from removed old files', async () => {
    {
      await using log = await openLog({ limits: { fileBytesMax: 500, filesMax: 3 } });
      for (let n = 1; n <= 40; n += 1) {
        log.note(call(n));
        await log.flush();
      }
    }
    const [oldest = ''] = readdirSync(join(home, 'audit')).filter((name) => name.startsWith('audit-'));
    const path = join(home, 'audit', oldest);
    const text = readFileSync(path, 'utf8');
    const [first = ''] = text.split('\n');
    const other = first.replace(/"prev":"[0-9a-f]{64}"/, `"prev":"${'1'.repeat(64)}"`);
    writeFileSync(path, text.replace(first, other));
    expect((await verifyAudit(home, { filesMax: 3 })).problems[0]).toMatch(/ line 1: it was changed$/);
    rmSync(path);
    expect((await verifyAudit(home, { filesMax: 2 })).problems).toEqual([
      expect.stringMatching(/records \d+ to \d+ are missing/),
    ]);
  });

  it('verify finds nothing wrong while files are rotated', async () => {
    await using log = await openLog({ limits: { fileBytesMax: 500, filesMax: 20 } });
    const writing = (async () => {
      for (let n = 1; n <= 300; n += 1) {
        log.note(call(n));
        await log.flush();
      }
    })();
    const found = new Set<string>();
    let isWriting = true;
    void writing.finally(() => {
      isWriting = false;
    });
    while (isWriting) {
      for (const problem of (await verifyAudit(home, { filesMax: 20 })).problems) found.add(problem);
    }
    expect([...found]).toEqual([]);
  });

  it('a new file that can’t be opened, or an old one that can’t be closed, loses no record', async () => {
    const failing = { open: 0, close: 0 };
    const openFile = async (path: string) => {
      if (failing.open-- > 0) throw new Error('EMFILE');
      const file = await open(path, 'a', 0o600);
      return {
        appendFile: (data: unknown) => file.appendFile(data as Buffer),
        truncate: (length?: number) => file.truncate(length),
        close: async () => {
          await file.close();
          if (failing.close-- > 0) throw new Error('EIO');
        },
      };
    };
    await using log = await openLog({ open: openFile, limits: { fileBytesMax: 500 } });
    for (let n = 1; n <= 30; n += 1) {
      if (n === 10) failing.open = 2;
      if (n === 20) failing.close = 1;
      log.note(call(n));
      await log.flush();
    }
    await log.flush();
    expect(await verifyAudit(home)).toMatchObject({ records: 30, lastSeq: 30, problems: [] });
  });

  it('verify: distinguishes a missing log from an unchanged one', async () => {
    await expect(verifyAudit(home)).rejects.toMatchObject({ code: 'not_found' });
    await expect(verifyAuditFiles([join(home, 'nothing')])).rejects.toMatchObject({
      code: 'not_found',
      message: `could not read ${join(home, 'nothing')}`,
    });
    await expect(verifyAuditFiles([home])).rejects.toMatchObject({ code: 'file_failed' });
  });

  it('verify: reports the records of a missing current file', async () => {
    await filled(3);
    rmSync(current());
    expect(await problems()).toEqual(['records 1 to 3 are missing at the end']);
  });

  it('records of strangers do not evict others', async () => {
    await using log = await openLog();
    for (let n = 0; n < 1000; n += 1) log.note({ ...call(n), caller: null, status: 401 });
    log.note(call(1));
    await log.flush();
    const lines = linesOf();
    expect(lines).toHaveLength(51);
    expect(parseRecord(lines.at(-1) ?? '')).toMatchObject({ key: 'socket', lost: 950 });
  });

  it('refused calls of a tenant evict neither its deeds nor those of others; all are counted', async () => {
    await using log = await openLog({ limits: { fileBytesMax: 10_000, filesMax: 3 } });
    const of = (tenant: string, key: string, status: number): AuditedCall => ({
      ...call(1),
      caller: { tenant, key },
      status,
    });
    for (let n = 0; n < 5_000; n += 1) {
      // With several keys too.
      log.note(of('acme', `3f9a0c52d1b${n % 4}`, 404));
      if (n % 50 === 0) await log.flush();
    }
    log.note(of('acme', '3f9a0c52d1b0', 200));
    log.note(of('other', '0123456789ab', 404));
    await log.flush();
    const reportOf = (tenant: string) => verifyAudit(home, { tenant });
    expect(await reportOf('acme')).toMatchObject({ firstSeq: 1, lastSeq: 101, removed: 0, problems: [] });
    expect(await reportOf('other')).toMatchObject({ firstSeq: 1, lastSeq: 1, problems: [] });
    const acme = readFileSync(join(home, 'audit', 'tenants', 'acme', 'audit.jsonl'), 'utf8')
      .trimEnd()
      .split('\n');
    expect(parseRecord(acme.at(-1) ?? '')).toMatchObject({ tenant: 'acme', status: 200, lost: 4_900 });
    clock.advance(3_000);
    for (let n = 0; n < 10; n += 1) log.note(of('acme', '3f9a0c52d1b0', 404));
    await log.flush();
    expect(await reportOf('acme')).toMatchObject({ lastSeq: 104 });
  });

  it('neurovisor_audit_failures_total: begins at 0, and counts each failed write of its log', async () => {
    const failures = auditFailuresMetric();
    let isFull = true;
    const openFile = async (path: string) => {
      const file = await open(path, 'a', 0o600);
      return {
        appendFile: async (data: unknown) => {
          if (isFull) throw new Error('ENOSPC');
          await file.appendFile(data as Buffer);
        },
        truncate: (length?: number) => file.truncate(length),
        close: () => file.close(),
      };
    };
    await using log = await openLog({ open: openFile, kind: 'models', failures });
    const counted = (): unknown => failures.samples().map(({ labels, value }) => [labels, value]);
    expect(counted()).toEqual([[{ log: 'models' }, 0]]);
    log.note(call(1));
    for (let n = 0; n < 3; n += 1) await log.flush();
    expect(counted()).toEqual([[{ log: 'models' }, 3]]);
    isFull = false;
    await log.flush();
    expect(counted()).toEqual([[{ log: 'models' }, 3]]);
  });

  it('while the disk is full, calls continue; lost records are counted, and no line is torn', async () => {
    let isFull = false;
    const openFile = async (path: string) => {
      const file = await open(path, 'a', 0o600);
      return {
        appendFile: async (data: unknown) => {
          if (!isFull) return await file.appendFile(data as Buffer);
          await file.appendFile((data as Buffer).subarray(0, 10));
          throw new Error('ENOSPC');
        },
        truncate: (length?: number) => file.truncate(length),
        close: () => file.close(),
      };
    };
    await using log = await openLog({ open: openFile, limits: { waitingMax: 5 } });
    log.note(call(1));
    await log.flush();
    isFull = true;
    for (let n = 2; n <= 10; n += 1) log.note(call(n));
    await log.flush();
    await log.flush();
    expect(linesOf()).toHaveLength(1);
    expect(errors).toHaveLength(1);
    isFull = false;
    await log.flush();
    log.note(call(11));
    await log.flush();
    expect(linesOf()).toHaveLength(7);
    expect(parseRecord(linesOf().at(-1) ?? '')).toMatchObject({ seq: 7, lost: 4 });
    expect(await problems()).toEqual([]);
  });

  it('a partial line left by a failing disk is cut off before the next one, even later', async () => {
    const failing = { append: 0, truncate: 0 };
    const openFile = async (path: string) => {
      const file = await open(path, 'a', 0o600);
      return {
        appendFile: async (data: unknown) => {
          if (failing.append-- <= 0) return await file.appendFile(data as Buffer);
          await file.appendFile((data as Buffer).subarray(0, 10));
          throw new Error('EIO');
        },
        truncate: async (length?: number) => {
          if (failing.truncate-- > 0) throw new Error('EIO');
          await file.truncate(length);
        },
        close: () => file.close(),
      };
    };
    await using log = await openLog({ open: openFile, limits: { fileBytesMax: 500 } });
    for (let n = 1; n <= 10; n += 1) {
      Object.assign(failing, { append: 1, truncate: 2 });
      log.note(call(n));
      for (let again = 0; again < 4; again += 1) await log.flush();
    }
    expect(await verifyAudit(home)).toMatchObject({ records: 10, problems: [] });
  });

  it('records lost last are reported at the end, by a record or in the daemon’s log', async () => {
    {
      await using log = await openLog({ limits: { waitingMax: 1 } });
      for (let n = 1; n <= 4; n += 1) log.note(call(n));
    }
    expect(linesOf().map((line) => parseRecord(line)?.lost ?? 0)).toEqual([0, 3]);
    expect(parseRecord(linesOf()[1] ?? '')).toMatchObject({ call: '(end)', tenant: null });
    expect(await problems()).toEqual([]);
    expect(errors).toEqual([]);
    const full = async () => ({
      appendFile: async () => await Promise.reject(new Error('ENOSPC')),
      truncate: async () => undefined,
      close: async () => undefined,
    });
    const counts: unknown[] = [];
    const log: Log = { ...silentLog, error: (_message, fields) => counts.push(fields) };
    const broken = await openLog({ open: full, log, limits: { waitingMax: 1 } });
    for (let n = 1; n <= 4; n += 1) broken.note(call(n));
    await broken[Symbol.asyncDispose]();
    expect(counts.at(-1)).toEqual({ count: 4 });
  });

  it('while the disk is full, bounds the waiting bytes, and writes the rest in batches later', async () => {
    let isFull = true;
    const writes: number[] = [];
    const openFile = async (path: string) => {
      const file = await open(path, 'a', 0o600);
      return {
        appendFile: async (data: unknown) => {
          if (isFull) throw new Error('ENOSPC');
          writes.push((data as Buffer).length);
          await file.appendFile(data as Buffer);
        },
        truncate: (length?: number) => file.truncate(length),
        close: () => file.close(),
      };
    };
    const text = 'x'.repeat(100_000);
    const content = { mode: 'full', request: { bytes: 1, body: { text } }, answer: null } as const;
    await using log = await openLog({
      open: openFile,
      kind: 'content',
      limits: { waitingCharactersMax: 3_000_000, fileBytesMax: 1_500_000 },
    });
    for (let n = 1; n <= 100; n += 1) log.note({ ...call(n), content });
    await log.flush();
    isFull = false;
    await log.flush();
    log.note(call(101));
    await log.flush();
    expect(Math.max(...writes)).toBeLessThanOrEqual(AUDIT_LIMITS.batchCharactersMax);
    const report = await verifyAudit(home, { kind: 'content' });
    expect(report).toMatchObject({ records: 31, problems: [] });
    const last = readFileSync(join(home, 'audit', 'content', 'audit.jsonl'), 'utf8');
    expect(parseRecord(last.trimEnd().split('\n').at(-1) ?? '')?.lost).toBe(70);
  });

  it('keeps lines that arrive while others are written', async () => {
    await using log = await openLog();
    log.note(call(1));
    const flushed = log.flush();
    for (let n = 2; n <= 5; n += 1) log.note(call(n));
    await flushed;
    await log.flush();
    expect(await verifyAudit(home)).toMatchObject({ records: 5, problems: [] });
  });
});

describe('verifyAudit', () => {
  it('reports which line was changed', async () => {
    const lines = await filled(5);
    for (const at of [0, 2, 4]) {
      write(lines.with(at, (lines[at] ?? '').replace('"status":200', '"status":404')));
      expect(await problems()).toEqual([expect.stringContaining(`line ${at + 1}: it was changed`)]);
    }
  });

  it('reports which lines are missing: at the beginning, in the middle, at the end', async () => {
    const lines = await filled(5);
    write(lines.slice(0, 1).concat(lines.slice(3)));
    expect(await problems()).toEqual([expect.stringContaining('records 2 to 3 are missing')]);
    write(lines.slice(0, 3));
    expect(await problems()).toEqual(['records 4 to 5 are missing at the end']);
    write(lines.slice(2));
    expect(await problems()).toEqual([expect.stringContaining('records 1 to 2 are missing')]);
  });

  it('detects a truncated end even after a daemon has started', async () => {
    const lines = await filled(5);
    write(lines.slice(0, 3));
    await filled(1);
    expect(await problems()).toEqual([expect.stringContaining('records 4 to 5 are missing')]);
  });

  it('reports which lines are reordered, repeated, or no records', async () => {
    const lines = await filled(4);
    write([0, 2, 1, 3].map((at) => lines[at] ?? ''));
    expect((await problems()).join()).toContain('record 2 is out of order, after record 3');
    write([0, 1, 1, 2, 3].map((at) => lines[at] ?? ''));
    expect((await problems()).join()).toContain('record 2 is out of order, after record 2');
    write(lines.with(1, 'hello'));
    expect((await problems()).join()).toContain('line 2 is not a record');
  });

  it('files alone may begin anywhere', async () => {
    const lines = await filled(5);
    write(lines.slice(2));
    expect(await verifyAuditFiles([current()])).toMatchObject({ firstSeq: 3, problems: [] });
  });
});
