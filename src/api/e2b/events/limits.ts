/** Limits of events and webhooks. */
export const EVENT_LIMITS = {
  /** Events of one tenant that are kept; older ones go. A webhook that has not got one by then never gets it. */
  keptMax: 50_000,
  /** Of all tenants: beyond it, the one with the most loses its oldest. */
  keptSumMax: 1_000_000,
  /** Of one tenant. */
  webhooksMax: 32,
  nameCharactersMax: 128,
  urlCharactersMax: 2048,
  secretCharactersMax: 256,
  pageMax: 100,
  pageDefault: 10,
  /** Between two attempts, milliseconds: it doubles from the first to the last. */
  retryMsMin: 1000,
  retryMsMax: 300_000,
} as const;
