/** The indexes that this host uses, read from its configuration. They stay on the host. */
import type { Proxies } from '../../outgoing/proxy.ts';
import type { PackageError } from '../errors.ts';
import type { IndexName } from '../protocol/artifact.ts';

export interface Index {
  /** With a trailing slash; without user and password. */
  readonly baseUrl: string;
  /** `HOST` or `HOST:PORT` of its files: reached by HTTPS, whatever their address. */
  readonly fileHosts?: readonly string[];
  /** Module paths that the host does not request from it, as Go's patterns in GOPRIVATE. */
  readonly except?: readonly string[];
  /** Value of `Authorization`, sent only to this origin. */
  readonly authorization?: string;
  /** PEM of certificates trusted in addition to the system's. */
  readonly ca?: string;
  /** Absent if the host connects directly. */
  readonly proxies?: Proxies;
}

/** Where the host logs in for this index, `HOST` or `HOST:PORT`; `null`: nowhere. */
export const loginAt = ({ authorization, baseUrl }: Index): string | null =>
  authorization === undefined ? null : new URL(baseUrl).host;

/** An index as the host has configured it, or the error of an invalid setting, which affects only this index. */
export type Configured = Index | PackageError;

export interface IndexSet extends Readonly<Partial<Record<IndexName, Configured>>> {
  /** Registries of npm scopes that have their own: `@scope` → registry. */
  readonly npmScopes?: Readonly<Record<string, Configured>>;
}
