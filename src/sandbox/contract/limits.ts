/**
 * Ranges and limits of requests, with units in their names. The CLI's options and the REST schemas are generated from
 * this table, and the core validates library calls with it.
 */

import { KIB, MIB } from '../../base/units.ts';

/** Both ends are inclusive. */
export interface Range {
  readonly min: number;
  readonly max: number;
}

const HOUR_MS = 3600 * 1000;
const TIMEOUT_MS_MAX = 7 * 24 * HOUR_MS;

export const RANGES = {
  cpus: { min: 1, max: 32 },
  memoryMib: { min: 128, max: 65_536 },
  diskMib: { min: 16, max: 65_536 },
  timeoutMs: { min: 1, max: TIMEOUT_MS_MAX },
  /** With a shorter timeout, the idle check itself would keep the sandbox busy. */
  idleTimeoutMs: { min: 1000, max: TIMEOUT_MS_MAX },
  queueTimeoutMs: { min: 1, max: HOUR_MS },
  forks: { min: 1, max: 64 },
  poolMembers: { min: 0, max: 256 },
  /**
   * Bytes per second, and the size of a bucket. Below the minimum, the host's own operations in the guest time out: a
   * hello with the largest environment takes 2 s of its 10 s at this rate.
   */
  channelBytes: { min: 16 * 1024, max: 1_000_000_000_000 },
  /** Connections per second, and the size of a bucket; each operation of the host is one connection. */
  channelConnections: { min: 1, max: 1_000_000 },
  /** Below the minimum, no full packet passes the TAP; the kernel's token buckets overflow at 18 GB/s. */
  networkBytesPerSecond: { min: 1024, max: 10_000_000_000 },
  networkBytes: { min: 1, max: 1_000_000_000_000_000 },
  networkConnections: { min: 1, max: 65_536 },
  /** Below the minimum, even small work takes a guest minutes. */
  diskBytesPerSecond: { min: 64 * 1024, max: 1_000_000_000_000 },
  diskOpsPerSecond: { min: 10, max: 100_000_000 },
  secretCharacters: { min: 16, max: 4096 },
  requestHeaderCharacters: { min: 0, max: 4096 },
  /** Timeout of a template's start command. */
  readyTimeoutMs: { min: 1000, max: HOUR_MS },
  /** Tokens or requests in a budget. */
  modelBudget: { min: 1, max: 1_000_000_000_000 },
  /** Budget in billionths of a dollar. */
  modelCostNanoDollars: { min: 1, max: 1_000_000_000_000_000 },
  modelWindowMs: { min: 1000, max: 366 * 24 * HOUR_MS },
  /** How long a cached answer is served to equal requests. */
  modelCacheTtlMs: { min: 1000, max: 30 * 24 * HOUR_MS },
  packageAgeMs: { min: 1, max: 10 * 365 * 24 * HOUR_MS },
} as const satisfies Record<string, Range>;

/** The size of a sandbox: enough for LangChain and NumPy with some data. */
export const DEFAULTS = { cpus: 1, memoryMib: 512, diskMib: 2048 } as const;
export const DEFAULT_QUEUE_TIMEOUT_MS = 60_000;

export const REQUEST_LIMITS = {
  imageCharactersMax: 1024,
  /** The guest's kernel reserves 1/64 of the maximum for page tables, taken from its initial memory. */
  memoryMaxTimes: 16,
  envVariablesMax: 256,
  /** Of one program. Linux limits only the bytes of variables and arguments together: 2 MiB. */
  programVariablesMax: 4096,
  argumentsMax: 65_536,
  envBytesMax: 32 * 1024,
  warmModulesMax: 64,
  warmModuleCharactersMax: 256,
  modelsMax: 256,
  modelNameCharactersMax: 256,
  allowedFieldsMax: 64,
  metadataPairsMax: 32,
  metadataKeyCharactersMax: 64,
  metadataValueCharactersMax: 1024,
  networkDestinationsMax: 64,
  destinationCharactersMax: 255,
  secretsMax: 32,
  secretHostsMax: 16,
  secretPlacesMax: 8,
  requestHeadersMax: 256,
  /** Maximum number of fields for one host name or pattern. Servers refuse heads of more than 8 KiB. */
  requestHeadersOfHostMax: 20,
  requestHeaderBytesOfHostMax: 6 * 1024,
  /** Names and values, counted once per host: the gateway searches each host's answers for them. */
  requestHeaderBytesMax: 64 * 1024,
  webhookUrlCharactersMax: 2048,
  startCharactersMax: 16_384,
  /** The VMM has as many places for them. */
  volumesMax: 8,
  volumePathCharactersMax: 1024,
} as const;

/** Names of snapshots, templates and volumes. */
const NAME = /^[a-z0-9][a-z0-9._-]{0,62}$/;
export const NAME_FAULT = 'expected 1 to 63 lower-case letters, digits, ".", "_" or "-", the first a letter or digit';
export const SNAPSHOT_NAME = NAME;
/** A snapshot's name as the operator writes it: `TENANT/NAME` for a tenant's snapshot, which the tenant calls NAME. */
export const SNAPSHOT_REFERENCE = /^(?:[a-z0-9][a-z0-9_-]{0,30}\/)?[a-z0-9][a-z0-9._-]{0,62}$/;
export const TEMPLATE_NAME = NAME;
export const VOLUME_NAME = NAME;
export const VOLUME_REFERENCE = SNAPSHOT_REFERENCE;
/** A stored secret's name as the operator writes it: `TENANT/NAME` for a tenant's. */
export const STORED_SECRET_REFERENCE = /^(?:[a-z0-9][a-z0-9_-]{0,30}\/)?[A-Za-z_][A-Za-z0-9_]{0,63}$/;
export const STORED_SECRET_FAULT = 'expected 1 to 64 letters, digits or "_", the first no digit';
/** Names of sandboxes, as Docker's of containers. */
export const SANDBOX_NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}$/;
export const SANDBOX_NAME_FAULT =
  'expected 2 to 63 letters, digits, ".", "_" or "-", the first a letter or digit, and not the 20 characters of an ID';
/** A sandbox's id or name; for the operator, a tenant's name is `TENANT/NAME`. */
export const SANDBOX_REFERENCE = /^(?:[a-z0-9][a-z0-9_-]{0,30}\/)?[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}$/;
/** Name of a template that an E2B client built. It belongs to one tenant and is never shown to others. */
export const BUILT_TEMPLATE_NAME = /^e2b-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export function isInRange(value: number, { min, max }: Range): boolean {
  return Number.isSafeInteger(value) && value >= min && value <= max;
}

/** A Dockerfile's build, as one line of JSON before the files that it may use. */
export const BUILD_LIMITS = {
  dockerfileCharactersMax: MIB,
  argName: /^[A-Za-z_]\w{0,255}$/,
  argCharactersMax: 64 * KIB,
  /** Same as the builder's. */
  argsMax: 1000,
  secretId: /^[\w.-]{1,64}$/,
  secretsMax: 32,
  /** Same as BuildKit's. */
  secretBytesMax: 500 * KIB,
  /** In base 64. */
  secretCharactersMax: 700_000,
  /** All of it. */
  lineBytesMax: 32 * MIB,
} as const;
