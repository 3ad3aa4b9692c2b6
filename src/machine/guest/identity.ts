import type { GuestNetwork } from '../../base/request/guest-network.ts';
import type { GuestLimits } from './guest.ts';

/** What makes a guest one particular sandbox: sent in the hello, never part of an image or a snapshot. */
export interface GuestIdentity {
  readonly sandboxId: string;
  readonly hostname: string;
  /** What the image that programs run in says of them, in the words of OCI; the defaults of what starts there. Absent: the built-in system. */
  readonly environment?: { readonly user: string; readonly workdir: string };
  /** Environment of every process of the user. */
  readonly env: Readonly<Record<string, string>>;
  readonly limits: GuestLimits;
  /** Python modules that the fork server imports, in order. */
  readonly warm?: readonly string[];
  /** True while a template is built: the fork server also makes a first call with the modules it knows. */
  readonly rehearse?: boolean;
  /** Absent: the sandbox has no network card. */
  readonly network?: GuestNetwork;
  /** PEM of a certificate that the guest trusts beside those of its image. */
  readonly authority?: string;
}
