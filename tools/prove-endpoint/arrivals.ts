/** A bounded record of the arrivals at a canary. Pure. */
import { z } from 'zod';

/** The oldest are dropped first. */
export const ARRIVALS_MAX = 10_000;
export const ARRIVAL_CHARACTERS_MAX = 2048;
/** Maximum per answer. */
const ANSWER_ARRIVALS_MAX = 2000;

const CANARY_PROTOCOLS = ['http', 'tls', 'tcp', 'udp', 'dns'] as const;

const arrivalSchema = z.object({
  protocol: z.enum(CANARY_PROTOCOLS),
  port: z.number().int(),
  /** Request head, server name of a TLS hello, queried name, or raw bytes. */
  text: z.string().max(ARRIVAL_CHARACTERS_MAX),
});
export type CanaryArrival = z.infer<typeof arrivalSchema>;
export const arrivalsSchema = z.array(arrivalSchema).max(ANSWER_ARRIVALS_MAX);

/** Run ids can't be guessed, so knowing one authorizes reading its arrivals. */
export const RUN_ID = /^[0-9a-f]{20}$/;

export class Arrivals {
  readonly #kept: CanaryArrival[] = [];

  add(arrival: CanaryArrival): void {
    this.#kept.push({ ...arrival, text: arrival.text.slice(0, ARRIVAL_CHARACTERS_MAX) });
    if (this.#kept.length > ARRIVALS_MAX) this.#kept.splice(0, ARRIVALS_MAX / 10);
  }

  /** The arrivals of a run, oldest first. Ignores case, since resolvers may change that of DNS names. */
  of(run: string): readonly CanaryArrival[] {
    return this.#kept.filter(({ text }) => text.toLowerCase().includes(run)).slice(-ANSWER_ARRIVALS_MAX);
  }
}
