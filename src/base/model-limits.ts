/** What a sandbox may have of the models: its place in the queue. */

/** Best first. */
export const MODEL_PRIORITIES = ['interactive', 'normal', 'batch'] as const;
export type ModelPriority = (typeof MODEL_PRIORITIES)[number];
