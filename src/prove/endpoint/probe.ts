/** What a sandbox is told to try, and what it says became of it: `probe.py` and its two languages. Pure but for reading it. */
import { readFileSync } from 'node:fs';
import { z } from 'zod';
import { MIB } from '../../base/units.ts';

export type Probe =
  /** Everything that comes back to `text` is the outcome. */
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number; readonly text: string }
  | {
      readonly kind: 'tls';
      readonly host: string;
      readonly port: number;
      /** Undefined: the hello names none. */
      readonly servername?: string;
      readonly text: string;
    }
  | { readonly kind: 'udp'; readonly host: string; readonly port: number; readonly text: string }
  /** As programs do, by the C library. */
  | { readonly kind: 'name'; readonly name: string }
  | {
      readonly kind: 'dns';
      /** Undefined: the sandbox's own. */
      readonly server?: string;
      readonly name: string;
      readonly type: number;
      readonly transport: 'udp' | 'tcp' | 'tls';
    }
  /** Redirects are followed. */
  | { readonly kind: 'url'; readonly url: string }
  /** One connection, on which `text` is sent again and again. */
  | {
      readonly kind: 'hold';
      readonly host: string;
      readonly port: number;
      readonly text: string;
      readonly seconds: number;
    };

/** The sandbox says so: to be believed no further than that. */
export interface ProbeOutcome {
  /** `answer`, `silence`, `closed`, or why not. */
  readonly outcome: string;
  readonly text: string;
  /** A TLS handshake was completed. */
  readonly secured: boolean;
}

const outcomesSchema = z.array(
  z.object({ outcome: z.string(), text: z.string(), secured: z.boolean() }),
);
/** Linux takes arguments of up to 128 KiB each. */
const COMMAND_CHARACTERS_MAX = 100_000;
const OUTPUT_CHARACTERS_MAX = 4 * MIB;

const script = new URL('./probe.py', import.meta.url);

/** For `sh -c`. @param silenceSeconds how long silence must last to be called silence */
export function probeCommand(probes: readonly Probe[], silenceSeconds: number): string {
  const source = readFileSync(script).toString('base64');
  const list = Buffer.from(JSON.stringify(probes)).toString('base64');
  const command = `python3 -c 'import base64; exec(base64.b64decode("${source}"))' ${list} ${silenceSeconds}`;
  if (command.length > COMMAND_CHARACTERS_MAX) throw new RangeError('too many probes at once');
  return command;
}

/** @returns undefined: that is not what the script prints */
export function readOutcomes(stdout: string, count: number): readonly ProbeOutcome[] | undefined {
  if (stdout.length > OUTPUT_CHARACTERS_MAX) return undefined;
  // Login shells may have something to say first.
  const line = stdout.trimEnd().split('\n').at(-1) ?? '';
  try {
    const read = outcomesSchema.safeParse(JSON.parse(line));
    return read.success && read.data.length === count ? read.data : undefined;
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}
