import { CodedError } from '../../base/errors.ts';

export type VmmErrorCode =
  /** The VMM binary or a file it needs is not installed. */
  | 'vmm_missing'
  | 'vmm_start_failed'
  /** The VMM's control socket did not answer in time. */
  | 'vmm_timeout'
  | 'vmm_command_failed'
  /** A `VmSpec` that no driver can run; the message names the field. */
  | 'vm_spec_invalid'
  | 'vm_unsupported'
  /** The snapshot is damaged or of another machine; nothing of it was loaded. */
  | 'snapshot_refused'
  | 'vm_gone'
  | 'vm_cancelled';

export class VmmError extends CodedError<VmmErrorCode> {}
