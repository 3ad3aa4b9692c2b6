/**
 * The probes of a sandbox and their outcomes: the input and output of `probe.py`. Pure, except that it reads that file.
 */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { MIB } from '../../src/base/units.ts';

export type Probe =
  /** Sends `text`; the outcome is the whole answer. */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number; readonly text: string }
  | {
      readonly kind: 'tls';
      readonly host: string;
      readonly port: number;
      /** Undefined: a hello without a server name. */
      readonly servername?: string;
      readonly text: string;
    }
  | { readonly kind: 'udp'; readonly host: string; readonly port: number; readonly text: string }
  /** Resolves a name through the C library, as programs do. */
  | { readonly kind: 'name'; readonly name: string }
  | {
      readonly kind: 'dns';
      /** Default: the sandbox's own resolver. */
      readonly server?: string;
      readonly name: string;
      readonly type: number;
      readonly transport: 'udp' | 'tcp' | 'tls';
    }
  /** Follows redirects. */
  | { readonly kind: 'url'; readonly url: string }
  /** Sends `text` repeatedly on one connection, until `seconds` after the file that it creates is removed. */
  | {
      readonly kind: 'hold';
      readonly host: string;
      readonly port: number;
      readonly text: string;
      readonly path: string;
      readonly seconds: number;
      /** Time limit while the file exists. */
      readonly secondsMax: number;
    }
  /** Removes the file of `hold`. */
  | { readonly kind: 'release'; readonly path: string };

/** Reported by the sandbox, so not trusted. */
export interface ProbeOutcome {
  /** `answer`, `silence`, `closed`, or the error. */
  readonly outcome: string;
  readonly text: string;
  /** Whether a TLS handshake was completed. */
  readonly secured: boolean;
}

const outcomesSchema = z.array(z.object({ outcome: z.string(), text: z.string(), secured: z.boolean() }));
/** Linux takes arguments of up to 128 KiB each. */
const COMMAND_CHARACTERS_MAX = 100_000;
const OUTPUT_CHARACTERS_MAX = 4 * MIB;

const script = new URL('./probe.py', import.meta.url);

/** A command for `sh -c`. @param silenceSeconds seconds without an answer that count as silence */
export function probeCommand(probes: readonly Probe[], silenceSeconds: number): string {
  const source = readFileSync(script).toString('base64');
  const list = Buffer.from(JSON.stringify(probes)).toString('base64');
  const command = `python3 -c 'import base64; exec(base64.b64decode("${source}"))' ${list} ${silenceSeconds}`;
  if (command.length > COMMAND_CHARACTERS_MAX) throw new RangeError('too many probes at once');
  return command;
}

/** @returns undefined if the output is not the script's */
export function readOutcomes(stdout: string, count: number): readonly ProbeOutcome[] | undefined {
  if (stdout.length > OUTPUT_CHARACTERS_MAX) return undefined;
  // Login shells may print text first.
  const line = stdout.trimEnd().split('\n').at(-1) ?? '';
  try {
    const read = outcomesSchema.safeParse(JSON.parse(line));
    return read.success && read.data.length === count ? read.data : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
