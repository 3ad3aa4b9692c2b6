import { CodedError } from '../../base/errors.ts';

export type VmmErrorCode =
  /** The VMM binary or a file it needs is not installed. */
  | 'vmm_missing'
  /** The VMM ended or failed before the guest ran. */
  | 'vmm_start_failed'
  /** The VMM's control socket did not answer in time. */
  | 'vmm_timeout'
  /** The VMM answered a command with an error. */
  | 'vmm_command_failed'
  /** A `VmSpec` that no driver can run; the message names the field. */
  | 'vm_spec_invalid'
  /** This driver or VM does not support the operation. */
  | 'vm_unsupported'
  /** The snapshot is damaged or of another machine; nothing of it was loaded. */
  | 'snapshot_refused'
  /** The VM is already gone. */
  | 'vm_gone'
  /** The caller canceled the start. */
  | 'vm_cancelled';

export class VmmError extends CodedError<VmmErrorCode> {}
