/**
 * The owner of a link, in its alias: `neurovisor:<sandbox id>:<pid>.<start>`. A link without such an alias is not ours
 * and is never touched, whatever its name.
 */
import { parseSandboxId, type SandboxId } from '../../../base/ids.ts';

export interface LinkOwner {
  readonly sandboxId: SandboxId;
  readonly pid: number;
  /** Field 22 of /proc/<pid>/stat (proc(5)); distinguishes the process from a later one with this pid. */
  readonly startTicks: string;
}

const MARK = /^neurovisor:([a-z0-9]+):([1-9]\d{0,9})\.(\d{1,20})$/;

export function formatOwner({ sandboxId, pid, startTicks }: LinkOwner): string {
  return `neurovisor:${sandboxId}:${pid}.${startTicks}`;
}

/** @returns undefined for any other text */
export function parseOwner(alias: string | undefined): LinkOwner | undefined {
  const [, id = '', pid = '', startTicks = ''] = MARK.exec(alias ?? '') ?? [];
  const sandboxId = parseSandboxId(id);
  return sandboxId === undefined ? undefined : { sandboxId, pid: Number(pid), startTicks };
}
