/** The decision of an egress policy on one name or one address. */
export interface Verdict {
  readonly allowed: boolean;
  /** The rule, or that there is none; in words. */
  readonly why: string;
  /** A rule denies it, as opposed to: no rule allows it. */
  readonly isDenied?: boolean;
}

/** The part of an egress policy that the resolver needs. */
export interface NamePolicy {
  /** @param name canonical, see `parseHostName` */
  allowsName(name: string): Verdict;
  /** Whether an answer may have this address: not if it is private, of a metadata service, or denied. */
  allowsAddress(address: string): Verdict;
}
