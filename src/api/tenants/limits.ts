/** Stored secrets of one tenant. */
export const SECRETS_MAX = 100;
/** Volumes of one tenant. */
export const VOLUMES_MAX = 256;

/** Limits of tenants, their keys and their records. */
export const TENANT_LIMITS = {
  /** Key files in a home, including revoked ones: the daemon reads all of them when it starts. */
  keysMax: 4096,
  keyLabelCharactersMax: 64,
  /** From a key's creation to its end: a second to ten years. */
  keyLifetimeMs: { min: 1000, max: 10 * 365 * 24 * 3600 * 1000 },
  /** Longer than the longest lists of a tenant; a larger file is not ours. */
  fileBytesMax: 640 * 1024,
  /** Names in `allowHosted`. */
  hostedMax: 256,
  /** Blocks in `allowNet`. */
  netsMax: 64,
  /** Patterns in each of `allowModels`, `allowImages` and `allowTemplates`. */
  patternsMax: 64,
  patternCharactersMax: 256,
  /** Time between two writes of a file that follows counts. */
  savedMs: 1000,
  budgetSeriesMax: 100,
  /** Ended sandboxes whose owner is remembered for model requests that end after them; the oldest is forgotten. */
  endedMax: 10_000,
  /** Retry delay if a quota is used up and the end of that is unknown. */
  retryMs: 5000,
} as const;

/** Shorter than a snapshot's name. */
export const TENANT_NAME = /^[a-z0-9][a-z0-9_-]{0,30}$/;
/** In the place of a tenant's name: what all tenants inherit. */
export const ALL_TENANTS = '_default';
/** A tenant, or `ALL_TENANTS`. */
export const TENANT_FILE = /^(?:_default|[a-z0-9][a-z0-9_-]{0,30})$/;
/** Owner of keys that name none. */
export const DEFAULT_TENANT = 'default';
