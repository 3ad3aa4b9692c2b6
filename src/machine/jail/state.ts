/** The jail's effect on a VMM: confine it, only log what it would refuse, or nothing. */
export const JAIL_STATES = ['enforced', 'log', 'off'] as const;
export type JailState = (typeof JAIL_STATES)[number];
