export const EVENT_LIMITS = {
  /**
   * Limit of kept events per tenant; older ones are removed. A webhook never gets an event that was removed before its
   * delivery.
   */
  keptMax: 50_000,
  /** Likewise, bytes of their JSON: events have the metadata of their sandboxes. */
  keptBytesMax: 64 * 1024 ** 2,
  /** Limit for all tenants; beyond it, the one with the most loses its oldest. */
  keptSumMax: 1_000_000,
  /** Per tenant. */
  webhooksMax: 32,
  nameCharactersMax: 128,
  urlCharactersMax: 2048,
  secretCharactersMax: 256,
  pageMax: 100,
  pageDefault: 10,
  /** Between two attempts; doubles from the first to the last. */
  retryMsMin: 1000,
  retryMsMax: 300_000,
} as const;
