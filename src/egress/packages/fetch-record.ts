/** A sandbox's fetch or refused fetch: one entry of its audit trail. */
import type { Ecosystem } from '../../base/request/package-policy.ts';

export interface PackageFetch {
  readonly ecosystem: Ecosystem;
  readonly name: string;
  /** Version of a file; empty for a page, or if unknown. */
  readonly version: string;
  /** Empty for the page of the name. */
  readonly file: string;
  /** `ok`, or why not: a code of `RefusalCode`, `digest_mismatch`, or `cut`. */
  readonly outcome: string;
  /** `sha256:…`; empty for a page, or if unknown. */
  readonly digest: string;
  readonly bytes: number;
  /** True if no index was asked. */
  readonly cached: boolean;
}
