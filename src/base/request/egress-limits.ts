/** How large an egress policy may be. */
export const EGRESS_LIMITS = {
  /** Rules of one kind, allow or deny. */
  rulesMax: 256,
  ruleCharactersMax: 320,
} as const;
