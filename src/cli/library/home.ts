/**
 * What a home keeps, for programs: each noun has the methods of the command of its name.
 *
 *     const { image } = await images.pull('python:3.13', { onProgress: console.log });
 *     const { key } = await keys.create('acme');
 *
 * A daemon does the work if one runs or NEUROVISOR_URL names one; otherwise this process does, with the files of its
 * home. Only the operator may: a tenant's key gets SandboxError `forbidden`. Paths are of this machine.
 */
import { readFile } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Administration, TenantRemoval } from '../../api/tenants/administration.ts';
import type { AuditedRequest, AuditListing, AuditVerification } from '../../api/tenants/audit-listing.ts';
import type { AuditRecord } from '../../api/tenants/audit-record.ts';
import type { CreatedKey, KeyInfo } from '../../api/tenants/keys.ts';
import type { HostChange, HostSettings, TenantChange, TenantInfo } from '../../api/tenants/settings.ts';
import { type Config, readConfig } from '../../base/config.ts';
import { silentLog } from '../../base/log.ts';
import { silentProgress } from '../../base/progress.ts';
import type { BuildEvent, ModelPullOptions } from '../../sandbox/contract/contents.ts';
import type {
  BuiltImage,
  DiskUsage,
  ImageBuild,
  ImagePull,
  ImageRecord,
  ImportedTemplate,
  ListedTemplate,
  ModelPull,
  PrunedDisk,
  PulledModel,
  RemovedImages,
} from '../../sandbox/contract/schema/contents.ts';
import type { TemplateCreation } from '../../sandbox/contract/schema/request.ts';
import { withAbort } from './abort.ts';
import type { OpenedContents } from './contents.ts';
import type { DaemonChoice, HostOptions } from './host.ts';

export type {
  AuditedRequest,
  AuditListing,
  AuditRecord,
  AuditVerification,
  BuildEvent,
  BuiltImage,
  CreatedKey,
  DiskUsage,
  HostSettings,
  ImagePull,
  ImageRecord,
  ImportedTemplate,
  KeyInfo,
  ListedTemplate,
  ModelPull,
  ModelPullOptions,
  PrunedDisk,
  PulledModel,
  RemovedImages,
  TemplateCreation,
  TenantChange,
  TenantInfo,
  TenantRemoval,
};

/** `signal` cancels the work, which then leaves nothing half made. */
export interface HomeOptions extends Pick<HostOptions, 'signal' | 'onProgress' | 'log'> {
  /** Default `auto`. Never beside a daemon: it alone changes its home. */
  readonly daemon?: Exclude<DaemonChoice, 'never'> | undefined;
}

/** As the options of `neurovisor image build`; `secrets` are in base 64. */
export interface ImageBuildOptions extends HomeOptions, Partial<Omit<ImageBuild, 'context' | 'dockerfile'>> {
  /** Path of the Dockerfile. Default: `Dockerfile` of the directory. */
  readonly file?: string;
  readonly onEvent?: (event: BuildEvent) => void;
}

interface Named {
  readonly name?: string | undefined;
}

/** @throws OciError, SandboxError, ClientError */
export const images = {
  /** Newest first. */
  list: (options?: HomeOptions): Promise<readonly ImageRecord[]> => inContents(options, (home) => home.images.list()),

  /** @param name a reference, a digest, or a prefix of at least 6 digits of one */
  get: (name: string, options?: HomeOptions): Promise<ImageRecord> =>
    inContents(options, (home) => home.images.get(name)),

  /** Fetches an image and makes its disk. @param options.when default `always`: also if the name is known */
  pull: (reference: string, options: HomeOptions & { readonly when?: 'always' | 'missing' } = {}): Promise<ImagePull> =>
    inContents(options, async (home) => {
      const { parseReference } = await import('../../host/runtime/images.ts');
      const { text } = parseReference(reference, process.cwd());
      return await home.images.pull(text, options.when ?? 'always', home.work);
    }),

  /** Builds the Dockerfile of a directory, whose files COPY takes. @throws DockerfileError, too */
  build: (dir: string, options: ImageBuildOptions = {}): Promise<BuiltImage> => {
    const { file = join(dir, 'Dockerfile'), onEvent = () => undefined, ...rest } = options;
    const { daemon: _daemon, signal: _signal, onProgress: _onProgress, log: _log, ...build } = rest;
    return inContents(options, async (home) => {
      const { buildImage } = await import('./image-build.ts');
      const dockerfile = await readFile(file, 'utf8');
      const files = { dir: resolve(dir), dockerfile: resolve(file) };
      return await buildImage(home, { ...build, dockerfile }, files, { ...home.work, onEvent });
    });
  },

  /** Removes all of them or, if one is unknown, none. */
  remove: (names: readonly string[], options?: HomeOptions): Promise<RemovedImages> =>
    inContents(options, (home) => home.images.remove(names)),

  /** Removes images without a name and files of no image. @param options.all images with a name, too */
  prune: (options: HomeOptions & { readonly all?: boolean } = {}): Promise<RemovedImages> =>
    inContents(options, (home) => home.images.prune(options.all ?? false)),
} as const;

/** @throws SandboxError, ImageError, OciError, ClientError */
export const templates = {
  /** Named ones first, then the others, newest first. */
  list: (options?: HomeOptions): Promise<readonly ListedTemplate[]> =>
    inContents(options, (home) => home.templates.list()),

  /** Builds the template if it is missing, and gives it the name. A ready-made name takes nothing but `card`. */
  create: (request: TemplateCreation, options?: HomeOptions): Promise<ListedTemplate> =>
    inContents(options, async (home) => {
      const { parse } = await import('../../sandbox/contract/schema/parse.ts');
      const { templateCreation } = await import('../../sandbox/contract/schema/request.ts');
      return await home.templates.create(parse(templateCreation, request), home.work);
    }),

  /** Removes names or keys with their files, all or none. @returns the removed names and keys */
  remove: (texts: readonly string[], options?: HomeOptions): Promise<readonly string[]> =>
    inContents(options, (home) => home.templates.remove(texts)),

  /** Gives a name to an exported template. @param options.name default: that of the export */
  import: (dir: string, options: HomeOptions & Named = {}): Promise<ImportedTemplate> =>
    inContents(options, (home) => home.templates.import(resolve(dir), options.name, home.work)),

  /** The same for a template of a registry. @param reference complete: with its registry */
  pull: (reference: string, options: HomeOptions & Named = {}): Promise<ImportedTemplate> =>
    inContents(options, (home) => home.templates.pull(reference, options.name, home.work)),
} as const;

/** Models of the built-in engine. @throws ModelError, ClientError */
export const models = {
  list: (options?: HomeOptions): Promise<readonly PulledModel[]> => inContents(options, (home) => home.models.list()),

  /** @param source a reference to a registry, or a path */
  pull: (source: string, options: HomeOptions & ModelPullOptions = {}): Promise<ModelPull> =>
    inContents(options, async (home) => {
      const { wholeSource } = await import('./contents.ts');
      const { name, file } = options;
      return await home.models.pull(wholeSource(source), { name, file }, home.work);
    }),

  /** Removes all of them or, if one is unknown, none. @returns freed bytes */
  remove: (names: readonly string[], options?: HomeOptions): Promise<number> =>
    inContents(options, (home) => home.models.remove(names)),
} as const;

export const disk = {
  usage: (options?: HomeOptions): Promise<DiskUsage> => inContents(options, (home) => home.disk.usage()),

  /** Removes templates and images without a name. @param options.all cached Dockerfile steps and packages, too */
  prune: (options: HomeOptions & { readonly all?: boolean } = {}): Promise<PrunedDisk> =>
    inContents(options, (home) => home.disk.prune(options.all ?? false)),
} as const;

/** API keys of tenants. @throws TenantError, SandboxError, ClientError */
export const keys = {
  /** Oldest first, including revoked ones. */
  list: (options?: HomeOptions): Promise<readonly KeyInfo[]> => administer(options, (home) => home.keys()),

  /** The only answer that has the key itself. @param options.name label for people; `expiresInMs`: default never */
  create: (
    tenant: string,
    options: HomeOptions & Named & { readonly expiresInMs?: number } = {},
  ): Promise<CreatedKey> =>
    administer(options, (home) => home.createKey(tenant, options.name ?? null, options.expiresInMs ?? null)),

  /** What the key has open ends at once. */
  revoke: (id: string, options?: HomeOptions): Promise<KeyInfo> => administer(options, (home) => home.revokeKey(id)),
} as const;

/** @throws TenantError, SandboxError, ClientError */
export const tenants = {
  /** Those for which something was set. */
  list: (options?: HomeOptions): Promise<readonly TenantInfo[]> => administer(options, (home) => home.tenants()),
  get: (name: string, options?: HomeOptions): Promise<TenantInfo> => administer(options, (home) => home.tenant(name)),
  /** Changes only the given settings, at once. */
  set: (name: string, change: TenantChange, options?: HomeOptions): Promise<TenantInfo> =>
    administer(options, (home) => home.setTenant(name, change)),
  /** Its keys are revoked, and what is encrypted of it can't be read any more. */
  remove: (name: string, options?: HomeOptions): Promise<TenantRemoval> =>
    administer(options, (home) => home.removeTenant(name)),
} as const;

/** Settings of the host, for all tenants together. @throws TenantError, SandboxError, ClientError */
export const settings = {
  get: (options?: HomeOptions): Promise<HostSettings> => administer(options, (home) => home.settings()),
  /** Changes only the given settings, at once. */
  set: (changed: HostChange, options?: HomeOptions): Promise<HostSettings> =>
    administer(options, (home) => home.setSettings(changed)),
} as const;

export interface AuditLogOptions extends HomeOptions {
  /** Whose log. Default: the operator's; `verify` checks all. */
  readonly tenant?: string | undefined;
}

/** The audit logs. @throws TenantError, SandboxError, ClientError */
export const audit = {
  /** Yields records, oldest first. Leave the loop or abort the signal to stop. */
  async *list({
    daemon,
    ...listing
  }: AuditListing & Pick<HomeOptions, 'daemon'> = {}): AsyncGenerator<AuditRecord, void, undefined> {
    const { openAuditLogs } = await import('./administer.ts');
    await using opened = await openAuditLogs(optionsOf({ daemon, signal: listing.signal }));
    yield* opened.home.audit(listing);
  },

  /** Everything that the logs have of one request to a model. */
  request: (seq: number, { tenant, ...options }: AuditLogOptions = {}): Promise<AuditedRequest> =>
    inAuditLogs(options, (home) => home.auditedRequest(seq, tenant)),

  verify: ({ tenant, ...options }: AuditLogOptions = {}): Promise<AuditVerification> =>
    inAuditLogs(options, (home) => home.verifyAudit(tenant)),
} as const;

function optionsOf({ daemon = 'auto', signal, onProgress, log }: HomeOptions) {
  const own = readConfig(process.env);
  const isUrl = daemon !== 'auto' && daemon !== 'require';
  const config: Config = isUrl ? { ...own, daemonUrl: daemon } : own;
  return {
    config,
    needsDaemon: daemon !== 'auto',
    signal: signal ?? new AbortController().signal,
    progress: onProgress ?? silentProgress,
    log: log ?? silentLog,
  };
}

async function inContents<T>(options: HomeOptions = {}, body: (home: OpenedContents) => Promise<T>): Promise<T> {
  return await withAbort(options.signal, async () => {
    // Loaded only here: sandboxes need none of it.
    const { openContents } = await import('./contents.ts');
    await using home = await openContents(optionsOf(options));
    return await body(home);
  });
}

async function administer<T>(options: HomeOptions = {}, body: (home: Administration) => Promise<T>): Promise<T> {
  return await withAbort(options.signal, async () => {
    const library = await import('./administer.ts');
    return await library.administer(optionsOf(options), body);
  });
}

async function inAuditLogs<T>(options: HomeOptions = {}, body: (home: Administration) => Promise<T>): Promise<T> {
  return await withAbort(options.signal, async () => {
    const { openAuditLogs } = await import('./administer.ts');
    await using opened = await openAuditLogs(optionsOf(options));
    return await body(opened.home);
  });
}
