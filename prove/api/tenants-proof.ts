/**
 * Proves that a tenant of a live daemon gets nothing that its operator has not allowed, however it asks: a
 * `neurovisor serve` of its own, in a home of its own, without a sandbox.
 */
import { sleep } from '../../src/base/clock.ts';
import { MIB } from '../../src/base/units.ts';
import { Notes, type Proof } from '../proof.ts';
import type { JailContext } from '../proof-runtime.ts';
import { type Daemon, openDaemon } from './daemon.ts';
import { tryRunDirectory, tryTerminals } from './local-tries.ts';

/** A start that passes the ceiling ends here, before a VM. */
const NO_TEMPLATE = 'no-such-template';
/** The most that an answer to a wrong body may have, bytes. */
const ANSWER_BYTES_MAX = 64 * 1024;
const BODY_MIB = 8;
const REFUSED_CALLS = 2000;
/** More than the bucket's burst, and far below the calls. */
const RECORDS_MAX = 500;
const AT_ONCE = 50;
/** More than a record waits for the disk. */
const WRITTEN_MS = 1000;
const UPLOADS = 16;
const ARCHIVE_BYTES = MIB;

/** What only the operator may allow: body of a start, and the setting that allows it. */
const CEILINGS = [
  {
    what: 'a private network',
    body: { network: { mode: 'allowlist', allow: ['10.0.0.0/8'] } },
    setting: { allowNet: ['10.0.0.0/8'] },
  },
  {
    what: 'an unchecked field of model requests',
    body: { models: { allowFields: ['messages.content'] } },
    setting: { allowFields: ['messages.content'] },
  },
  { what: 'a hosted model', body: { models: { allowHosted: ['gpt-5'] } }, setting: { allowHosted: ['gpt-5'] } },
] as const;

/** What the operator may limit: body of a start beyond the limit, the setting that refuses it, and one that does not. */
const LIMITS = [
  { what: 'too many CPUs', body: { cpus: 2 }, limit: { cpusMax: 1 }, setting: { cpusMax: 2 } },
  { what: 'too much memory', body: { memoryMib: 1024 }, limit: { memoryMaxMib: 512 }, setting: { memoryMaxMib: 1024 } },
  { what: 'too large a disk', body: { diskMib: 2048 }, limit: { diskMaxMib: 1024 }, setting: { diskMaxMib: 2048 } },
  {
    what: 'too long a timeout',
    body: { timeoutMs: 120_000 },
    limit: { timeoutMaxMs: 60_000 },
    setting: { timeoutMaxMs: 120_000 },
  },
  { what: 'no timeout', body: { timeoutMs: null }, limit: {}, setting: { timeoutMaxMs: null } },
  { what: 'a template', body: {}, limit: { allowTemplates: ['base'] }, setting: { allowTemplates: ['*'] } },
] as const;

interface TenantsContext extends JailContext {
  /** For tests: the operator's key in the tenant's place, which no ceiling stops. */
  readonly asOperator?: boolean;
  /** For tests: nobody else made the run directory. */
  readonly ownRunDirectory?: boolean;
}

export async function proveTenants(context: TenantsContext): Promise<Proof> {
  const notes = new Notes();
  await using daemon = await openDaemon(context);
  const { home } = daemon;
  const tenant = context.asOperator === true ? daemon.operator : await daemon.key('mallory');
  await tryCeilings(notes, daemon, tenant);
  await tryHost(notes, daemon, tenant);
  await tryBodies(notes, daemon, tenant);
  await tryTerminals(notes, home, [['host'], ['host', '-o', 'json']]);
  await tryAudit(notes, daemon, tenant);
  await tryUploads(notes, daemon, tenant);
  await tryRunDirectory(notes, home, context.ownRunDirectory === true);
  return notes.proof('tenants');
}

async function tryCeilings(notes: Notes, daemon: Daemon, tenant: string): Promise<void> {
  const start = async (body: object) => {
    const { status } = await daemon.ask('POST', '/v1/sandboxes', tenant, { ...body, template: NO_TEMPLATE });
    return `status ${status}`;
  };
  notes.same('control: a start that asks for nothing special', 'status 404', await start({}));
  const metadata = { network: { mode: 'allowlist', allow: ['169.254.169.254/32'] } };
  notes.same(
    'a start with the metadata service of a cloud, which nobody may allow',
    'status 400',
    await start(metadata),
  );
  for (const { what, body, setting } of CEILINGS) {
    notes.same(`a start with ${what}`, 'status 403', await start(body));
    await daemon.ask('PATCH', '/v1/tenants/mallory', daemon.operator, setting);
    notes.same(`control: ${what}, allowed by the operator`, 'status 404', await start(body));
  }
  for (const { what, body, limit, setting } of LIMITS) {
    await daemon.ask('PATCH', '/v1/tenants/mallory', daemon.operator, limit);
    notes.same(`a start with ${what}`, 'status 403', await start(body));
    await daemon.ask('PATCH', '/v1/tenants/mallory', daemon.operator, setting);
    notes.same(`control: ${what}, allowed by the operator`, 'status 404', await start(body));
  }
}

async function tryHost(notes: Notes, daemon: Daemon, tenant: string): Promise<void> {
  const told = async (key: string) => {
    const { body } = await daemon.ask('GET', '/v1/host', key);
    return body.includes(daemon.modelAddress) ? 'its address' : 'no address';
  };
  notes.same('control: the operator asks for the model server', 'its address', await told(daemon.operator));
  notes.same('the tenant asks for the model server', 'no address', await told(tenant));
  for (const path of ['/v1/tenants', '/v1/audit', '/v1/keys', '/v1/settings']) {
    const { status } = await daemon.ask('GET', path, tenant);
    notes.same(`the tenant reads ${path}`, 'status 403', `status ${status}`);
  }
}

/** Bodies that cost much to judge are refused by their counts, with a short answer. */
async function tryBodies(notes: Notes, daemon: Daemon, tenant: string): Promise<void> {
  const items = (text: (at: number) => string): string => {
    const parts: string[] = [];
    for (let at = 0, bytes = 0; bytes < (BODY_MIB - 1) * MIB; at += 1) {
      const part = text(at);
      bytes += part.length + 1;
      parts.push(part);
    }
    return parts.join(',');
  };
  const bodies = {
    'wrong variables': `{"env":{${items((at) => `"${at}":0`)}}}`,
    'right variables': `{"env":{${items((at) => `"A${at}":"b"`)}}}`,
    'wrong annotations': `{"metadata":{${items((at) => `"${at}":[]`)}}}`,
    'blocks of a network': `{"network":{"mode":"allowlist","allow":[${items(() => '"1.1.1.1"')}]}}`,
    'nested arrays': `{"env":${'['.repeat(MIB)}${']'.repeat(MIB)}}`,
  };
  for (const [what, body] of Object.entries(bodies)) {
    const answer = await daemon.ask('POST', '/v1/sandboxes', tenant, body);
    const isRefused = [400, 413, 422].includes(answer.status);
    const isShort = answer.body.length <= ANSWER_BYTES_MAX;
    const seen = `${isRefused ? 'refused' : `status ${answer.status}`}, ${isShort ? 'a short answer' : `${answer.body.length} bytes`}`;
    notes.same(`a body of many ${what}`, 'refused, a short answer', seen);
  }
}

/** Refused calls of one tenant push out no record of another. */
async function tryAudit(notes: Notes, daemon: Daemon, tenant: string): Promise<void> {
  const records = async (): Promise<number> => {
    // Written a moment later.
    await sleep(WRITTEN_MS);
    const { body } = await daemon.ask('GET', '/v1/audit?log=calls&tenant=mallory', daemon.operator);
    return [...body.matchAll(/^id:/gm)].length;
  };
  const before = await records();
  const refused = () => daemon.ask('DELETE', '/v1/sandboxes/x', tenant);
  await refused();
  const one = (await records()) - before;
  notes.same('control: a refused call leaves a record', '1 record', `${one} record`);
  for (let calls = 0; calls < REFUSED_CALLS; calls += AT_ONCE) {
    await Promise.all(Array.from({ length: AT_ONCE }, refused));
  }
  const more = (await records()) - before - one;
  notes.note(
    `${REFUSED_CALLS} refused calls`,
    `at most ${RECORDS_MAX} records`,
    `${more} records`,
    more <= RECORDS_MAX,
  );
  const { body } = await daemon.ask('GET', '/v1/audit/verification', daemon.operator);
  const { ok } = JSON.parse(body) as { ok: boolean };
  notes.same('the logs are whole', 'true', `${ok}`);
}

/** A URL takes one upload, however many begin at once. */
async function tryUploads(notes: Notes, daemon: Daemon, tenant: string): Promise<void> {
  const made = await daemon.ask('POST', '/v3/templates', tenant, { name: 'mallory', cpuCount: 1, memoryMB: 512 });
  const { templateID } = JSON.parse(made.body) as { templateID: string };
  const hash = '0'.repeat(64);
  const { body } = await daemon.ask('GET', `/templates/${templateID}/files/${hash}`, tenant);
  const { pathname } = new URL((JSON.parse(body) as { url: string }).url);
  const archive = 'x'.repeat(ARCHIVE_BYTES);
  const all = await Promise.all(
    Array.from({ length: UPLOADS }, () => daemon.ask('PUT', pathname, '', archive).catch(() => undefined)),
  );
  const taken = all.filter((answer) => answer !== undefined && answer.status < 300).length;
  notes.same(`${UPLOADS} uploads to one URL at once`, '1 taken', `${taken} taken`);
}
