/** Limits of a Dockerfile and its context. Both may come from a stranger. */
import { GIB, KIB, MIB } from '../../base/units.ts';

export const DOCKERFILE_LIMITS = {
  fileBytesMax: MIB,
  instructionsMax: 1_000,
  stagesMax: 64,
  /** Longest argument or value of a variable: `ENV A=$A$A` doubles it. */
  valueCharactersMax: 64 * KIB,
  /** All words of an instruction, and a heredoc, after variables are replaced. */
  expandedCharactersMax: MIB,
  environmentCharactersMax: 256 * KIB,
  /** Variables, labels or build arguments. */
  namesMax: 1_000,
  /** Heredocs of one instruction, and mounts of one RUN. */
  partsMax: 32,
} as const;

export const CONTEXT_LIMITS = {
  entriesMax: 100_000,
  /** Names of the context that the wildcards of one instruction are compared with. */
  listedMax: 1_000_000,
  depthMax: 100,
  bytesMax: 8 * GIB,
} as const;
export type ContextLimits = { readonly [K in keyof typeof CONTEXT_LIMITS]: number };

/** Size of the VM that runs the steps. */
export const STAGE_VM_DEFAULTS = { cpus: 2, memoryMib: 2048, diskMib: 8192 } as const;
