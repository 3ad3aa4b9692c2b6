/** The role of a control plane that keeps started sandboxes ready. */
import type { PoolMembers } from './schema/request.ts';
import type { TemplateSpec } from './spec.ts';

export type { PoolMembers } from './schema/request.ts';

export interface Pools {
  pools(): Promise<readonly PoolInfo[]>;
  /**
   * Sets the pool of the template that `members` names (default: the default template), and builds that if missing.
   * Replaces the pool that the same name had before its template was built anew.
   */
  setPool(limits: PoolLimits, members?: PoolMembers): Promise<PoolInfo>;
}

export interface PoolLimits {
  /** Minimum of idle members. */
  readonly min: number;
  /** Maximum of idle members. */
  readonly max: number;
}

export interface PoolInfo extends PoolLimits {
  /** Key of the template. */
  readonly template: string;
  /** Name of the template that the pool was set with. */
  readonly name: string | null;
  readonly spec: TemplateSpec;
  /** The wanted number of idle members, between min and max by demand. */
  readonly target: number;
  readonly ready: number;
  readonly starting: number;
  /** Requests that got a member, since the start. */
  readonly hits: number;
  /** Requests that found none and started a clone. */
  readonly misses: number;
  /** Members that died or failed a check, and were not handed out. */
  readonly discarded: number;
}
