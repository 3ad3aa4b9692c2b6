/** The process that created a jail, and what to remove besides the jail's folder. */
export interface JailOwner {
  readonly pid: number;
  readonly startTicks: string;
  readonly cgroups: readonly string[];
}

export const OWNER_FILE = 'owner';
export const ROOT = 'root';
