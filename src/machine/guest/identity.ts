import type { GuestNetwork } from '../../base/request/guest-network.ts';
import type { GuestLimits } from './guest.ts';

/** @see VmSpec.volumes */
interface GuestVolume {
  readonly serial: string;
  /** Absolute. */
  readonly path: string;
  readonly readOnly: boolean;
}

/** The identity of a sandbox that its guest gets in the hello; never part of an image or a snapshot. */
export interface GuestIdentity {
  readonly sandboxId: string;
  readonly hostname: string;
  /** The image's OCI settings, which are the defaults of programs that start there. Omitted for the built-in system. */
  readonly environment?: { readonly user: string; readonly workdir: string };
  /** Environment of every process of the user. */
  readonly env: Readonly<Record<string, string>>;
  readonly limits: GuestLimits;
  /** Python modules that the fork server imports, in order. */
  readonly warm?: readonly string[];
  /** True while a template is built: the fork server also makes a first call with the modules it knows. */
  readonly rehearse?: boolean;
  /** Omitted if the sandbox has no network card. */
  readonly network?: GuestNetwork;
  /** Disks to mount, once in the life of a guest. Omitted: none. */
  readonly volumes?: readonly GuestVolume[];
  /** PEM of a certificate that the guest trusts beside those of its image. */
  readonly authority?: string;
}
