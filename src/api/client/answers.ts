/**
 * Checks a daemon's answers against `spec/openapi.json`, which the server's schemas generate. This makes commands start
 * faster: loading those schemas, with zod, costs more than all other modules of `neurovisor ls`.
 *
 * Answers may grow: fields that the document does not name are dropped.
 */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ChannelStats } from '../../base/channel.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import type { ProgressEvent } from '../../base/progress.ts';
import type { UsageRecord } from '../../inference/bridge/bridge.ts';
import type { GuestInfo } from '../../machine/guest/guest.ts';
import type {
  ForkResult,
  HostInfo,
  LogChunk,
  PoolInfo,
  SandboxInfo,
  SnapshotInfo,
  StoredSecretInfo,
  VolumeInfo,
} from '../../sandbox/contract/control.ts';
import type { SandboxLogs } from '../../sandbox/contract/ending.ts';
import type { TimedEvent } from '../../sandbox/contract/events.ts';
import type {
  BuiltImage,
  DiskUsage,
  ImagePull,
  ImageRecord,
  ImportedTemplate,
  ListedTemplate,
  ModelPull,
  PrunedDisk,
  PulledModel,
  RemovedImages,
} from '../../sandbox/contract/schema/contents.ts';
import type { SandboxLoads } from '../../sandbox/plane/load.ts';
import type { ErrorBody } from '../rest/errors.ts';
import type { SentBuildEvent } from '../rest/schema/contents.ts';
import type { TenantRemoval } from '../tenants/administration.ts';
import type { AuditedRequest, AuditVerification } from '../tenants/audit-listing.ts';
import type { AuditRecord } from '../tenants/audit-record.ts';
import type { CreatedKey, KeyInfo } from '../tenants/keys.ts';
import type { HostSettings, TenantInfo } from '../tenants/settings.ts';
import type { TenantUse } from '../tenants/usage.ts';
import { type AnswerSchema, conform, MISMATCH, type Schemas } from './json-schema.ts';

export interface Answer<T> {
  /** Returns null for a body that does not match. */
  read(body: unknown): { readonly value: T } | null;
}

const DOCUMENT = join(PACKAGE_DIR, 'spec/openapi.json');
let schemas: Schemas | undefined;

function documentSchemas(): Schemas {
  if (schemas === undefined) {
    const document = JSON.parse(readFileSync(DOCUMENT, 'utf8')) as {
      readonly components: { readonly schemas: Schemas };
    };
    schemas = document.components.schemas;
  }
  return schemas;
}

function answer<T>(schema: AnswerSchema): Answer<T> {
  return {
    read: (body) => {
      const value = conform(schema, body, documentSchemas());
      return value === MISMATCH ? null : { value: value as T };
    },
  };
}

const named = <T>(name: string): Answer<T> => answer({ $ref: `#/components/schemas/${name}` });

function listOf<Key extends string, T>(key: Key, name: string): Answer<Readonly<Record<Key, readonly T[]>>> {
  const items = { $ref: `#/components/schemas/${name}` };
  return answer({ type: 'object', properties: { [key]: { type: 'array', items } }, required: [key] });
}

export const sandboxInfo = named<SandboxInfo>('Sandbox');
export const sandboxList = listOf<'sandboxes', SandboxInfo>('sandboxes', 'Sandbox');
export const snapshotInfo = named<SnapshotInfo>('Snapshot');
export const snapshotList = listOf<'snapshots', SnapshotInfo>('snapshots', 'Snapshot');
export const storedSecret = named<StoredSecretInfo>('StoredSecret');
export const storedSecretList = listOf<'secrets', StoredSecretInfo>('secrets', 'StoredSecret');
export const volumeInfo = named<VolumeInfo>('Volume');
export const volumeList = listOf<'volumes', VolumeInfo>('volumes', 'Volume');
export const forkList = listOf<'forks', ForkResult>('forks', 'ForkResult');
export const poolInfo = named<PoolInfo>('Pool');
export const poolList = listOf<'pools', PoolInfo>('pools', 'Pool');
export const hostInfo = named<HostInfo>('Host');
export const guestInfo = named<GuestInfo>('Guest');
export const channelStats = named<ChannelStats>('ChannelStats');
export const usageList = listOf<'usage', UsageRecord>('usage', 'Usage');
export const sandboxLogs = named<SandboxLogs>('Logs');
export const sandboxLoads = named<SandboxLoads>('Loads');
export const timedEvent = named<TimedEvent>('SandboxEvent');
export const logChunk = named<LogChunk>('LogChunk');
export const progressEvent = named<ProgressEvent>('ProgressEvent');
export const imageList = listOf<'images', ImageRecord>('images', 'Image');
export const imagePull = named<ImagePull>('ImagePull');
export const builtImage = named<BuiltImage>('BuiltImage');
export const buildEvent = named<SentBuildEvent>('BuildEvent');
export const removedImages = named<RemovedImages>('RemovedImages');
export const template = named<ListedTemplate>('Template');
export const templateList = listOf<'templates', ListedTemplate>('templates', 'Template');
export const importedTemplate = named<ImportedTemplate>('ImportedTemplate');
export const removedTemplates = named<{ readonly templates: readonly string[] }>('RemovedTemplates');
export const modelList = listOf<'models', PulledModel>('models', 'PulledModel');
export const modelPull = named<ModelPull>('ModelPull');
export const diskUsage = named<DiskUsage>('DiskUsage');
export const prunedDisk = named<PrunedDisk>('PrunedDisk');
export const freedBytes = named<{ readonly bytes: number }>('FreedBytes');
export const keyInfo = named<KeyInfo>('Key');
export const keyList = listOf<'keys', KeyInfo>('keys', 'Key');
export const createdKey = named<CreatedKey>('CreatedKey');
export const tenantInfo = named<TenantInfo>('Tenant');
export const tenantRemoval = named<TenantRemoval>('TenantRemoval');
export const tenantUse = named<TenantUse>('TenantUse');
export const tenantList = listOf<'tenants', TenantInfo>('tenants', 'Tenant');
export const hostSettings = named<HostSettings>('HostSettings');
export const auditRecord = named<AuditRecord>('AuditRecord');
export const auditedRequest = named<AuditedRequest>('AuditedRequest');
export const auditVerification = named<AuditVerification>('AuditVerification');
export const errorBody = named<ErrorBody>('ErrorBody');
export const health = answer<{ readonly status: 'ok' }>({
  type: 'object',
  properties: { status: { const: 'ok' } },
  required: ['status'],
});
export const empty = answer<null>({ type: 'null' });
