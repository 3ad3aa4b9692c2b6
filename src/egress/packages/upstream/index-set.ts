/** The indexes that this host uses, read from its configuration. They stay on the host. */
import type { PackageError } from '../errors.ts';
import type { IndexName } from '../protocol/artifact.ts';

export interface Index {
  /** With a slash at the end; without user and password. */
  readonly baseUrl: string;
  /** `HOST` or `HOST:PORT` of files that belong to it: reached by HTTPS, whatever their address. */
  readonly fileHosts?: readonly string[];
  /** Module paths that the host does not ask of it: Go's patterns, as in GOPRIVATE. */
  readonly except?: readonly string[];
  /** Value of `Authorization`, sent to this origin only. */
  readonly authorization?: string;
  /** PEM of certificates trusted in addition to the system's. */
  readonly ca?: string;
  /** The host's proxies; absent: it connects itself. */
  readonly proxies?: Proxies;
}

/** URLs, with user and password where the proxy needs them. */
export interface Proxies {
  /** For `http:` URLs. */
  readonly http?: string | undefined;
  /** For `https:` URLs. */
  readonly https?: string | undefined;
  /** Hosts that are reached without one, as in NO_PROXY. */
  readonly except: string;
}

/** An index as the host has configured it; an error: that setting is invalid, so only this index can't be used. */
export type Configured = Index | PackageError;

export interface IndexSet extends Readonly<Partial<Record<IndexName, Configured>>> {
  /** Registries of npm scopes that have their own: `@scope` → registry. */
  readonly npmScopes?: Readonly<Record<string, Configured>>;
}
