/**
 * The interface of the VM that runs a stage by `guest/builder/step.py`, and its answers. The composition root provides
 * the VM.
 */
import { z } from 'zod';
import type { BaseDisk } from './base.ts';
import type { Variables } from './stages.ts';

/** A finished stage, or an image, whose files are read. */
export interface SourceDisks {
  readonly base: BaseDisk;
  /** Path; `null` if nothing was changed. */
  readonly scratch: string | null;
}

export interface StageDisks {
  readonly base: BaseDisk;
  /** Fills the scratch disk's file, which does not exist yet; `null` for an empty disk. */
  fillScratch: ((path: string) => Promise<void>) | null;
  readonly sources: readonly SourceDisks[];
  /** Likewise for the disk of cache mounts; `null` if the stage has none. */
  fillCaches: ((path: string) => Promise<void>) | null;
  /** True if the stage becomes an image. */
  readonly packs: boolean;
}

export type StepMount =
  | {
      readonly type: 'cache';
      readonly directory: string;
      readonly target: string;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
      readonly readonly: boolean;
    }
  | {
      readonly type: 'secret';
      readonly secret: Uint8Array;
      readonly target: string | null;
      readonly variable: string | null;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
    }
  | { readonly type: 'tmpfs'; readonly target: string }
  | {
      readonly type: 'bind';
      /** Number in `StageDisks.sources`; `null` for files placed by `placeFiles`. */
      readonly source: number | null;
      readonly path: string;
      readonly target: string;
    };

export interface RunPlan {
  readonly argv: readonly string[];
  readonly program: string | null;
  readonly env: Variables;
  readonly user: string;
  readonly workdir: string;
  readonly network: boolean;
  readonly mounts: readonly StepMount[];
}

export interface CopyPlan {
  /** Number in `StageDisks.sources`; `null` for the archive. */
  readonly from: number | null;
  readonly patterns: readonly string[];
  /** Last path element of each source in the archive. */
  readonly named: readonly string[];
  readonly target: string;
  readonly owner: string | null;
  readonly mode: number | null;
  readonly extracts: boolean;
  /**
   * Type of the archive: made here from files of the context, or a client's own, whose files are found by `patterns`.
   */
  readonly packed: 'context' | 'tar' | 'gzip';
}

export type OnOutput = (stream: 'stdout' | 'stderr', chunk: Buffer) => void;

export interface RunEnd {
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly oomKilled: boolean;
}

/** Methods throw `StepFault`, or the VM's own errors. */
export interface StageVm {
  /** Not written to between steps. `caches` is `null` without cache mounts. */
  readonly disks: { readonly scratch: string; readonly caches: string | null };
  /** Places files for mounts of the next command, each below its number. */
  placeFiles(archive: AsyncIterable<Uint8Array>): Promise<void>;
  run(plan: RunPlan, onOutput: OnOutput): Promise<RunEnd>;
  copy(plan: CopyPlan, archive: AsyncIterable<Uint8Array> | null): Promise<void>;
  makeDirectory(path: string): Promise<void>;
  /** Ends the VM; the image is a new file at this path. */
  pack(outPath: string): Promise<void>;
  /** Idempotent. */
  stop(): Promise<void>;
}

export type FaultCode = 'full' | 'missing' | 'failed' | 'too_large' | 'disk' | 'invalid';

/** A message of the VM about a step; the VM may be compromised. */
export class StepFault extends Error {
  override name = 'StepFault';
  readonly code: FaultCode;

  constructor(code: FaultCode, detail: string) {
    super(detail);
    this.code = code;
  }
}

export const ANSWER_BYTES_MAX = 16_384;
const DETAIL_CHARACTERS_MAX = 1_000;
const BLOCK_BYTES = 4_096;

const answerSchema = z.union([
  z.strictObject({ code: z.enum(['full', 'missing', 'failed', 'too_large', 'disk', 'invalid']), detail: z.string() }),
  z.strictObject({ bytes: z.number().int().min(BLOCK_BYTES).multipleOf(BLOCK_BYTES).optional() }),
]);

/**
 * Reads the line that a task printed.
 * @returns the length of an image; undefined for any other line
 * @throws StepFault
 */
export function readAnswer(line: string): number | undefined {
  let json: unknown;
  try {
    json = line.length > ANSWER_BYTES_MAX ? undefined : JSON.parse(line);
  } catch {
    json = undefined;
  }
  const result = answerSchema.safeParse(json);
  if (!result.success) throw new StepFault('failed', 'the VM gave no valid answer');
  if (!('code' in result.data)) return result.data.bytes;
  const { code, detail } = result.data;
  throw new StepFault(code, detail.slice(0, DETAIL_CHARACTERS_MAX));
}
