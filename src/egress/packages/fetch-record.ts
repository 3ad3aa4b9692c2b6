/** What a sandbox fetched, or was refused: one entry of its audit trail. */
import type { Ecosystem } from '../../base/request/package-policy.ts';

export interface PackageFetch {
  readonly ecosystem: Ecosystem;
  readonly name: string;
  /** Version of a file; empty: a page, or unknown. */
  readonly version: string;
  /** Empty: the page of the name. */
  readonly file: string;
  /** `ok`, or why not: a code of `RefusalCode`, `digest_mismatch`, or `cut`. */
  readonly outcome: string;
  /** `sha256:…`; empty: a page, or not known. */
  readonly digest: string;
  /** Sent to the guest. */
  readonly bytes: number;
  /** True: no index was asked. */
  readonly cached: boolean;
}
