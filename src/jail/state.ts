/** What the jail of this host does to a VMM: confines it, only logs what it would forbid, or nothing. */
export const JAIL_STATES = ['enforced', 'log', 'off'] as const;
export type JailState = (typeof JAIL_STATES)[number];
