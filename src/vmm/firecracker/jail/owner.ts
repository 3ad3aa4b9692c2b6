/** What is in a jail's folder, and who made it. */

/** By pid and start time, and what is to be removed besides the folder. */
export interface JailOwner {
  readonly pid: number;
  readonly startTicks: string;
  readonly cgroups: readonly string[];
}

export const OWNER_FILE = 'owner';
export const ROOT = 'root';
