/** The decision of an egress policy on one name or one address. */
export interface Verdict {
  readonly allowed: boolean;
  /** Explanation for people: the rule, or that there is none. */
  readonly why: string;
  /** True if a rule denies it, false if no rule allows it. */
  readonly isDenied?: boolean;
}

export interface NamePolicy {
  /** @param name canonical, see `parseHostName` */
  allowsName(name: string): Verdict;
  /** Whether an answer may contain this address: not if it is private, of a metadata service, or denied. */
  allowsAddress(address: string): Verdict;
}
