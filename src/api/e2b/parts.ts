/** Types that all parts of the E2B interface share. */
import type { Clock } from '../../base/clock.ts';
import type { Log } from '../../base/log.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import type { TemplateStep } from '../../sandbox/contract/template-step.ts';
import type { AuditSink } from '../tenants/audit.ts';
import type { Callers } from '../tenants/callers.ts';
import type { StorageQuota } from '../tenants/storage-quota.ts';
import type { AccessTokens } from './tokens.ts';

export interface E2bParts {
  readonly control: ControlPlane;
  readonly clock: Clock;
  readonly log: Log;
  readonly tokens: AccessTokens;
  /** Maps keys to their owners, and to what they may see. */
  readonly callers: Callers;
  /** Receives a record of each call of the control plane. Default: no records. */
  readonly audit?: AuditSink | undefined;
  /** The longest timeout in seconds of the caller's sandboxes; clients' defaults are not above it. Default: any. */
  readonly secondsMax?: (() => number) | undefined;
  /** Names of ports end with it: `PORT-ID.DOMAIN`. May include a port. */
  readonly domain: () => string;
}

export interface TemplateSource {
  /**
   * Our name of the template that `ID`, `NAME`, `NAME:TAG` or `NAME:BUILD_ID` means; undefined if no client has built it.
   * @throws E2bError 404 for a build that is not finished
   */
  localName(text: string): string | undefined;
  /** By id or name. @returns false if there is none */
  remove(text: string): Promise<boolean>;
}

export interface TemplateParts {
  readonly builds: TemplateBuilds;
  /** Names, tags and finished builds: a directory of the home. */
  readonly stateDir: string;
  /** Uploaded archives, which may be removed at any time. */
  readonly uploadsDir: string;
  /**
   * Checks a build against the tenant's quotas when its turn has come. Default: no quotas.
   * @returns a function to call at the end of the build
   * @throws an error whose message clients may see
   */
  readonly admit?: (tenant: string | null, memoryMib: number) => () => void;
  /** Counts templates and uploads, and limits uploads. Default: no quotas. */
  readonly storage?: StorageQuota;
}

export interface TemplateBuilds {
  /**
   * Builds it in VMs and names it.
   * @returns the size of the sandboxes that start from it, and its files
   * @throws BuildFailure, or another error whose message clients may see
   */
  build(
    wanted: TemplateBuild,
    onEvent: (event: TemplateBuildEvent) => void,
    signal: AbortSignal,
  ): Promise<BuiltTemplate>;
  /** The most memory in MiB that VMs of a build use at one time. */
  memoryMibOf(size: Partial<TemplateSize>): number;
  /** Removes a template that `build` has named. A missing one is no error. */
  remove(name: string): Promise<void>;
  /** True if this machine has a template of this name, whatever its origin. */
  has(name: string): Promise<boolean>;
}

export interface TemplateSize {
  readonly cpus: number;
  readonly memoryMib: number;
  /** Space that a sandbox may write. */
  readonly diskMib: number;
}

export interface BuiltTemplate extends TemplateSize {
  /** Bytes of its image and RAM on the disk, and the key that equal builds share. */
  readonly files: { readonly key: string; readonly bytes: number };
}

export interface TemplateBuild {
  /** Our name for the result. */
  readonly name: string;
  readonly from: { readonly kind: 'image' | 'template'; readonly name: string };
  readonly steps: readonly TemplateStep[];
  readonly start: TemplateStart | null;
  /** The size that the client asks for; the builder chooses the rest. */
  readonly size: Partial<TemplateSize>;
  /** Whether the host logs in at a registry or package index for the build. */
  readonly mayLogIn: (host: string) => boolean;
  /** If true, no step of an earlier build is reused. */
  readonly isFresh: boolean;
}

export interface TemplateStart {
  readonly command: string | null;
  /** Exits with 0 once the program is ready. */
  readonly ready: string | null;
}

/** Steps count from 1; 0 is the work before the first. */
export type TemplateBuildEvent =
  | { readonly kind: 'step'; readonly step: number; readonly isCached: boolean }
  | { readonly kind: 'output'; readonly step: number; readonly stream: 'stdout' | 'stderr'; readonly chunk: Buffer }
  | { readonly kind: 'note' | 'warning'; readonly text: string };
