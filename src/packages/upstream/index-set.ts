/** The indexes that this host uses, read from its configuration. They stay on the host. */
import type { IndexName } from '../protocol/artifact.ts';

export interface Index {
  /** With a slash at the end; without user and password. */
  readonly baseUrl: string;
  /** `HOST` or `HOST:PORT` of files that belong to it: reached by HTTPS, whatever their address. */
  readonly fileHosts?: readonly string[];
  /** Value of `Authorization`, sent to this origin only. */
  readonly authorization?: string;
  /** PEM of certificates trusted in addition to the system's. */
  readonly ca?: string;
}

/** An absent index: nothing of that kind can be fetched. */
export type IndexSet = Readonly<Partial<Record<IndexName, Index>>>;
