/** The administration of a daemon's home: each method is one request of `src/api/rest/routes/{administration,audit}.ts`. */

import { MIB } from '../../base/units.ts';
import type { Administration } from '../tenants/administration.ts';
import type { AuditListing } from '../tenants/audit-listing.ts';
import type { AuditRecord } from '../tenants/audit-record.ts';
import * as answers from './answers.ts';
import type { Requests } from './requests.ts';
import { untilEnd } from './server-sent.ts';
import type { Transport } from './transport.ts';

/** No record of a log is longer. */
const AUDIT_STREAM = { answer: answers.auditRecord, what: 'audit record', lineCharactersMax: 8 * MIB };

export function remoteAdministration({ transport, get, post }: Requests): Administration {
  const tenantPath = (name: string): string => `/tenants/${encodeURIComponent(name)}`;
  return {
    async keys() {
      return (await get('/keys', answers.keyList)).keys;
    },

    async createKey(tenant, name, expiresInMs = null) {
      const more = { ...(name === null ? {} : { name }), ...(expiresInMs === null ? {} : { expiresInMs }) };
      return await post('/keys', { tenant, ...more }, answers.createdKey);
    },

    async revokeKey(id) {
      const path = `/keys/${encodeURIComponent(id)}`;
      return await transport.call({ method: 'DELETE', path, answer: answers.keyInfo });
    },

    async tenants() {
      return (await get('/tenants', answers.tenantList)).tenants;
    },

    async tenant(name) {
      return await get(tenantPath(name), answers.tenantInfo);
    },

    async tenantUse(name) {
      return await get(`${tenantPath(name)}/use`, answers.tenantUse);
    },

    async setTenant(name, change) {
      const path = tenantPath(name);
      return await transport.call({ method: 'PATCH', path, body: change, answer: answers.tenantInfo });
    },

    async removeTenant(name) {
      return await transport.call({ method: 'DELETE', path: tenantPath(name), answer: answers.tenantRemoval });
    },

    async settings() {
      return await get('/settings', answers.hostSettings);
    },

    async setSettings(change) {
      return await transport.call({ method: 'PUT', path: '/settings', body: change, answer: answers.hostSettings });
    },

    audit: (listing = {}) => readAudit(transport, listing),

    async auditedRequest(seq, tenant) {
      return await get(`/audit/${seq}${queryOf({ tenant })}`, answers.auditedRequest);
    },

    async verifyAudit(tenant) {
      return await get(`/audit/verification${queryOf({ tenant })}`, answers.auditVerification);
    },
  };
}

/** @throws ClientError `daemon_lost` if the stream breaks off */
async function* readAudit(
  transport: Transport,
  { signal = new AbortController().signal, ...listing }: AuditListing,
): AsyncGenerator<AuditRecord, void, undefined> {
  const stream = await transport.stream(`/audit${queryOf(listing)}`, signal, true);
  yield* untilEnd(stream, AUDIT_STREAM, signal);
}

function queryOf(fields: object): string {
  const given = Object.entries(fields).filter(([, value]) => value !== undefined);
  return `?${new URLSearchParams(given.map(([name, value]): [string, string] => [name, `${value}`]))}`;
}
