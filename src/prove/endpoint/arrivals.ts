/** What has arrived at a canary, as it is kept and told. Pure. */
import { z } from 'zod';

/** Kept; the oldest go first. */
export const ARRIVALS_MAX = 10_000;
export const ARRIVAL_CHARACTERS_MAX = 2048;
/** Told at once. */
const TOLD_MAX = 2000;

const CANARY_PROTOCOLS = ['http', 'tls', 'tcp', 'udp', 'dns'] as const;

const arrivalSchema = z.object({
  protocol: z.enum(CANARY_PROTOCOLS),
  port: z.number().int(),
  /** Head of a request, server name of a TLS hello, question, or whatever came. */
  text: z.string().max(ARRIVAL_CHARACTERS_MAX),
});
export type CanaryArrival = z.infer<typeof arrivalSchema>;
export const arrivalsSchema = z.array(arrivalSchema).max(TOLD_MAX);

/** Of a run: nobody guesses it, so who knows it may hear what arrived with it. */
export const RUN_ID = /^[0-9a-f]{20}$/;

export class Arrivals {
  readonly #kept: CanaryArrival[] = [];

  add(arrival: CanaryArrival): void {
    this.#kept.push({ ...arrival, text: arrival.text.slice(0, ARRIVAL_CHARACTERS_MAX) });
    if (this.#kept.length > ARRIVALS_MAX) this.#kept.splice(0, ARRIVALS_MAX / 10);
  }

  /** In the order of arrival. DNS names come in any case. */
  of(run: string): readonly CanaryArrival[] {
    return this.#kept.filter(({ text }) => text.toLowerCase().includes(run)).slice(-TOLD_MAX);
  }
}
