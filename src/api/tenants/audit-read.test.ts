import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { appendFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { FakeClock } from '../../base/clock.ts';
import { silentLog } from '../../base/log.ts';
import { AuditLog } from './audit.ts';
import { findAudit, readAudit } from './audit-read.ts';

let home: string;
beforeEach(() => {
  home = mkdtempSync(join(tmpdir(), 'nv-audit-'));
});
afterEach(() => rmSync(home, { recursive: true, force: true }));

const openLog = (): Promise<AuditLog> =>
  AuditLog.open({
    homeDir: home,
    clock: new FakeClock(),
    log: silentLog,
    limits: { fileBytesMax: 600, filesMax: 1000 },
  });
async function note(log: AuditLog, count: number): Promise<void> {
  for (let n = 0; n < count; n += 1) {
    const caller = { tenant: null, key: 'socket' };
    log.note({ caller, call: `POST /é/${n}`, target: null, status: 200, ms: 1 });
    await log.flush();
  }
}
async function numbers(): Promise<number[]> {
  const all: number[] = [];
  for await (const { record } of readAudit(home)) all.push(record.seq);
  return all;
}
const calls = { kind: 'calls', tenant: null } as const;
const upTo = (count: number): number[] => Array.from({ length: count }, (_, n) => n + 1);

it('reads all files in order, and finds a record by its number', async () => {
  await using log = await openLog();
  await note(log, 20);
  expect(readdirSync(join(home, 'audit')).length).toBeGreaterThan(4);
  expect(await numbers()).toEqual(upTo(20));
  for (const seq of [1, 7, 20]) expect((await findAudit(home, calls, seq))?.record.seq).toBe(seq);
  expect(await findAudit(home, calls, 21)).toBeNull();
});

it('skips lines that are not records: changed, being written, or very long', async () => {
  {
    await using log = await openLog();
    await note(log, 2);
  }
  const path = join(home, 'audit', 'audit.jsonl');
  await appendFile(path, `hello\n${'x'.repeat(9 * 1024 * 1024)}\n{"seq":3`);
  expect(await numbers()).toEqual([1, 2]);
});

it('follows new records, even into new files, until the signal aborts', async () => {
  await using log = await openLog();
  await note(log, 3);
  const aborter = new AbortController();
  const seen: number[] = [];
  const reading = (async () => {
    for await (const { record } of readAudit(home, { follow: true, signal: aborter.signal })) {
      seen.push(record.seq);
      if (seen.length === 3) void note(log, 42);
      if (record.seq === 45) aborter.abort();
    }
  })();
  await reading;
  expect(seen).toEqual(upTo(45));
});

it('misses no record while files are rotated', async () => {
  await using log = await openLog();
  const writing = note(log, 200);
  let isWriting = true;
  void writing.finally(() => {
    isWriting = false;
  });
  while (isWriting) {
    const seen = await numbers();
    expect(seen).toEqual(upTo(seen.length));
  }
});

it('reports a missing log', async () => {
  await expect(numbers()).rejects.toMatchObject({ code: 'not_found' });
});
