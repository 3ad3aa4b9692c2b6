/** The indexes that this host uses, read from its configuration. They stay on the host. */

export interface Index {
  /** With a slash at the end; without user and password. */
  readonly baseUrl: string;
  /** Value of `Authorization`, sent to this origin only. */
  readonly authorization?: string;
  /** PEM of certificates trusted in addition to the system's. */
  readonly ca?: string;
}

/** An absent index: nothing of that kind can be fetched. */
export interface IndexSet {
  readonly pip?: Index;
}
