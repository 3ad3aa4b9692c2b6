/** The answer of an egress policy to a question about one name or one address. */
export interface Verdict {
  readonly allowed: boolean;
  /** For people: the rule, or that there is none. */
  readonly why: string;
  /** A rule says no, as opposed to: no rule says yes. */
  readonly isDenied?: boolean;
}

/** What names need of an egress policy. */
export interface NamePolicy {
  /** @param name canonical, see `parseHostName` */
  allowsName(name: string): Verdict;
  /** Whether an answer may hold this address. No for private, metadata and otherwise refused ones. */
  allowsAddress(address: string): Verdict;
}
