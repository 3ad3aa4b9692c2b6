/** Limits of tenants, their keys and their records. */
export const TENANT_LIMITS = {
  /** Key files in a home, revoked ones included: the daemon reads all of them after a change. */
  keysMax: 4096,
  keyLabelCharactersMax: 64,
  /** A key file has about 300 bytes; a larger one is not ours. */
  keyFileBytesMax: 4096,
  /** Time after the last change of the keys during which they are read again for each request, milliseconds. */
  keysFreshMs: 1000,
} as const;

/** As snapshots' names, but shorter, so that a tenant's name and a snapshot's fit together. */
export const TENANT_NAME = /^[a-z0-9][a-z0-9_-]{0,30}$/;
/** Owner of keys that name none. */
export const DEFAULT_TENANT = 'default';
