/** Size limits of an egress policy. */
export const EGRESS_LIMITS = {
  /** Rules of one kind, allow or deny. */
  rulesMax: 256,
  ruleCharactersMax: 320,
} as const;
