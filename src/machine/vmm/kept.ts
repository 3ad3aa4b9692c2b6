/** VMs that outlive the process that holds them, so that the next one can take them over. */
import type { FileIdentity } from '../../sys/fd.ts';

/** What the next process needs of a running VM, as JSON. */
export interface KeptVm {
  /** The VMM, by pid and start time (field 22 of /proc/<pid>/stat). */
  readonly vmm: { readonly pid: number; readonly startTicks: string };
  /** Identities of what the VMM holds, by its descriptor: a hostile VMM may have put anything else there. */
  readonly held: readonly HeldFile[];
  /** Directories of its control group. */
  readonly groups: readonly string[];
  /** `MachineSize`'s machine, for saves. */
  readonly machine: string;
  /** It maps its RAM copy-on-write; `configurationOf` the state that it was started from, in Base64. Else null. */
  readonly configuration: string | null;
}

/** Numbers are decimal texts. */
export interface HeldFile {
  readonly fd: number;
  readonly dev: string;
  readonly ino: string;
}

export const heldFile = (fd: number, { dev, ino }: FileIdentity): HeldFile => ({ fd, dev: `${dev}`, ino: `${ino}` });
