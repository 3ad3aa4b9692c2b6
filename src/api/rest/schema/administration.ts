/** Keys, tenants, settings and audit logs: requests and answers. */
import { z } from 'zod';
import { windowedBudget } from '../../../sandbox/contract/schema/models.ts';
import { count, list, text, wallMs } from '../../../sandbox/contract/schema/values.ts';
import type { TenantRemoval } from '../../tenants/administration.ts';
import type { AuditedRequest, AuditVerification, TenantVerification } from '../../tenants/audit-listing.ts';
import { auditRecord, type ChainReport } from '../../tenants/audit-record.ts';
import type { CreatedKey, KeyInfo } from '../../tenants/keys.ts';
import { TENANT_FILE, TENANT_LIMITS, TENANT_NAME } from '../../tenants/limits.ts';
import {
  ceilingFields,
  type HostChange,
  type HostSettings,
  type Quotas,
  TENANT_SETTINGS,
  type TenantChange,
  type TenantInfo,
} from '../../tenants/settings.ts';
import type { StorageUse, TenantUse } from '../../tenants/usage.ts';
import { flag, wholeText } from './params.ts';

const tenantName = z
  .string()
  .regex(TENANT_NAME, {
    error: 'expected up to 31 lowercase letters, digits, _ and -, beginning with a letter or digit',
  })
  .describe('Name of a tenant.');
const tenantOrAll = z
  .string()
  .regex(TENANT_FILE, { error: 'expected the name of a tenant, or _default for all of them' })
  .describe('Name of a tenant; `_default`: what all tenants inherit.');
const keyId = z
  .string()
  .regex(/^[0-9a-f]{12}$/, { error: 'expected 12 hexadecimal digits' })
  .describe('Id of a key: the beginning of its SHA-256.');
const label = text(TENANT_LIMITS.keyLabelCharactersMax).min(1).describe('Label for people.');

const key = {
  id: keyId,
  tenant: tenantName,
  name: label.nullable(),
  createdAtMs: wallMs,
  expiresAtMs: wallMs.nullable().describe('Refused from then on; null: never.'),
  revokedAtMs: wallMs.nullable(),
} satisfies Record<keyof KeyInfo, z.ZodType>;
export const keyInfo: z.ZodType<KeyInfo> = z.object(key).meta({ id: 'Key', description: 'A key, without the key.' });
export const keyList = z.object({ keys: z.array(keyInfo) }).meta({ id: 'KeyList' });
export const createdKey: z.ZodType<CreatedKey> = z
  .object({ ...key, key: z.string().describe('The key. No other answer has it.') })
  .meta({ id: 'CreatedKey' });
const { min, max } = TENANT_LIMITS.keyLifetimeMs;
const lifetime = z.int().min(min).max(max).describe('Milliseconds until it is refused. Default never.');
export const keyRequest = z
  .strictObject({ tenant: tenantName, name: label.optional(), expiresInMs: lifetime.optional() })
  .meta({ id: 'KeyRequest' });
export const keyParams = z.strictObject({ key: keyId });

/** Below the largest whole number, which the document does not show. */
const AMOUNT_MAX = 9e15;
const amount = z.number().nonnegative().max(AMOUNT_MAX).nullable();
const quotas = {
  sandboxes: amount.describe('Sandboxes that have not ended; null: unlimited.'),
  memoryMib: amount.describe('Memory of running VMs, MiB.'),
  startsPerSecond: amount.describe('Starts of VMs.'),
  storageBytes: amount.describe('Disk space, bytes: the kinds of `TenantUse`.'),
} satisfies Record<keyof Quotas, z.ZodType>;
const tenantSetting = z.enum(TENANT_SETTINGS).meta({ id: 'TenantSetting' });
export const tenantInfo: z.ZodType<TenantInfo> = z
  .object({
    name: tenantOrAll,
    quotas: z.object(quotas).meta({ id: 'Quotas' }),
    ...ceilingFields,
    modelBudget: windowedBudget.nullable().describe('Of its sandboxes together; null: unlimited.'),
    own: z.array(tenantSetting).describe('Settings that are its own; the others are those of `_default`.'),
  })
  .meta({ id: 'Tenant' });
const storage = {
  snapshots: count,
  pauses: count,
  disks: count.describe('Sizes of the disks of sandboxes that are not paused to disk.'),
  volumes: count.describe('Their sizes, whatever is in them.'),
  templates: count.describe('Template builds of E2B’s clients: images and RAM.'),
  uploads: count,
  events: count,
} satisfies Record<keyof StorageUse, z.ZodType>;
export const tenantUse: z.ZodType<TenantUse> = z
  .object({
    sandboxes: count,
    memoryMib: count,
    storageBytes: count.describe('The sum of `storage`.'),
    storage: z.object(storage).meta({ id: 'StorageUse', description: 'Bytes by kind.' }),
  })
  .meta({ id: 'TenantUse', description: 'What a tenant uses of its quotas.' });
export const tenantList = z.object({ tenants: z.array(tenantInfo) }).meta({ id: 'TenantList' });
export const tenantChange: z.ZodType<TenantChange> = z
  .strictObject({
    ...quotas,
    ...ceilingFields,
    modelBudget: windowedBudget.nullable().describe('Null: unlimited.'),
    inherit: list(tenantSetting, TENANT_SETTINGS.length).describe('Settings that are those of `_default` from now on.'),
  } satisfies Record<keyof TenantChange, z.ZodType>)
  .partial()
  .meta({
    id: 'TenantChange',
    description: 'What is not named stays; a list replaces the one before.',
  }) as z.ZodType<TenantChange>;
export const tenantRemoval: z.ZodType<TenantRemoval> = z
  .object({
    name: tenantName,
    revokedKeys: z.int().min(0).describe('Keys that were valid until now.'),
    endedSandboxes: count,
    removedSnapshots: count,
    removedVolumes: count,
    erasedSaves: z.boolean().describe('Whether it had a key that encrypts pauses and snapshots, which is erased.'),
  })
  .meta({ id: 'TenantRemoval' });
export const tenantParams = z.strictObject({ tenant: tenantName });
export const tenantOrAllParams = z.strictObject({ tenant: tenantOrAll });

const hostFields = {
  modelBudget: windowedBudget.nullable().describe('Of all sandboxes together; null: unlimited.'),
  cordoned: z.boolean().describe('New sandboxes are refused; those that exist go on.'),
} satisfies Record<keyof HostSettings, z.ZodType>;
export const hostSettings: z.ZodType<HostSettings> = z.strictObject(hostFields).meta({ id: 'HostSettings' });
export const hostChange: z.ZodType<HostChange> = z
  .strictObject(hostFields)
  .partial()
  .meta({ id: 'HostChange', description: 'What is not named stays.' }) as z.ZodType<HostChange>;

export const auditQuery = z.strictObject({
  log: z.enum(['models', 'calls']).optional().describe('Requests to models (default), or control calls.'),
  target: text(64).optional().describe('Id of a sandbox or snapshot, or its beginning.'),
  tenant: tenantName.optional().describe('Only its records. Default: those of all logs, merged by time.'),
  model: text(256).optional().describe('As the sandbox or the model server names it.'),
  outcome: text(64).optional().describe('An outcome, or the code of a refusal.'),
  sinceMs: wholeText({ min: 0, max: 1e15 }).optional().describe('Milliseconds since 1970.'),
  after: wholeText({ min: 0, max: 1e15 })
    .optional()
    .describe('Only records with a higher number: of the tenant’s log, else of the operator’s.'),
  content: flag.optional().describe('`true`: with contents where they are kept. Reading them leaves a record.'),
  follow: flag.optional().describe('`true`: also new records. Default false.'),
});
export const auditParams = z.strictObject({ seq: wholeText({ min: 1, max: 1e15 }).describe('Number of a record.') });

export const auditLogQuery = z.strictObject({
  tenant: tenantName.optional().describe('Whose log. Default: the operator’s; of a check: all.'),
});

export const auditedRequest: z.ZodType<AuditedRequest> = z
  .object({
    record: auditRecord,
    content: z.record(z.string(), z.unknown()).nullable().describe('Request and answer; null: not kept.'),
    isChanged: z.boolean().describe('The content is not the one that the record names.'),
  })
  .meta({ id: 'AuditedRequest' });
const chainReport = {
  records: count,
  firstSeq: count.nullable(),
  lastSeq: count.nullable(),
  lastHash: z.string().nullable().describe('Keep it elsewhere, to detect a whole new log.'),
  firstAt: z.string().nullable(),
  lastAt: z.string().nullable(),
  removed: count.describe('Older records, which were removed with the oldest files.'),
  problems: z.array(z.string()).describe('The first ones.'),
  problemCount: count,
} satisfies Record<keyof ChainReport, z.ZodType>;
const otherReport = z.object(chainReport).meta({ id: 'AuditChainReport' }).nullable();
const verification = {
  ok: z.boolean().describe('Nothing was changed.'),
  ...chainReport,
  models: otherReport.describe('Of requests to models; null: there is no such log.'),
  contents: otherReport.describe('Of contents; null: there is no such log.'),
  changedContents: z.array(count).describe('Requests whose content is not the one that their record names.'),
};
const tenantVerification: z.ZodType<TenantVerification> = z
  .object({ tenant: tenantName, ...verification })
  .meta({ id: 'AuditTenantVerification' });
export const auditVerification: z.ZodType<AuditVerification> = z
  .object({ ...verification, tenants: z.array(tenantVerification).describe('Their own logs. Empty if one was named.') })
  .meta({ id: 'AuditVerification' });
