/**
 * What the REST interface takes and gives, in this folder alone: `requests`, `answers`, and the fields that
 * both have. They check requests, make `spec/openapi.json`, and check a daemon's answers (src/client).
 *
 * Requests are strict: an unknown field is an error that names it. Answers may grow: unknown fields are
 * left out. The types are those of the control plane; a field that is added there does not compile here.
 */
import { z } from 'zod';
import type { DiskLimits } from '../../base/disk-limits.ts';
import type { DestinationLimit } from '../../net/policy/destination-budgets.ts';
import type { MemoryAction } from '../../sandbox/control.ts';
import { LIMITS, type NetworkLimits } from '../../sandbox/spec.ts';

/** `Upgrade` of the tunnel to a sandbox's agent. */
export const TUNNEL_PROTOCOL = 'neurovisor-guest';

/** `Upgrade` of a connection to a port of its network card. */
export const PORT_PROTOCOL = 'tcp';

export const count = z.number().int().nonnegative();
export const ms = z.number();
export const wallMs = z.number().describe('Milliseconds since 1970.');
export const text = (charactersMax: number) => z.string().max(charactersMax);
/** Of a request. Whatever is wrong with it, the message is the same: what may stand there. */
export function whole(min: number, max: number) {
  const error = `expected a whole number from ${min} to ${max}`;
  return z.number({ error }).int({ error }).min(min, { error }).max(max, { error });
}
/** How long sandboxes and programs may go on. */
export const milliseconds = whole(1, LIMITS.timeoutMsMax);

export const sandboxId = z
  .string()
  .regex(/^[a-z0-9]{20}$/, { error: 'expected 20 characters of a-z and 0-9' })
  .describe('Id of a sandbox.');
export const snapshotName = z
  .string()
  .regex(/^[a-z0-9][a-z0-9._-]{0,62}$/, {
    error:
      'expected 1 to 63 lower-case letters, digits, ".", "_" or "-", the first a letter or digit',
  })
  .describe('Name of a snapshot.');
export const metadata = z
  .record(text(64).min(1), text(1024))
  .refine((pairs) => Object.keys(pairs).length <= 32, { error: 'expected at most 32 pairs' })
  .describe('Free pairs for whoever made the sandbox; a filter of the list.');
export const environment = z.record(text(256), text(32 * 1024));
export const status = z
  .enum(['starting', 'running', 'saving', 'paused', 'resuming', 'ending', 'ended'])
  .describe('`saving`: its state is being written; afterwards it goes on or is paused.');
export const onTimeout = z.enum(['kill', 'pause']);
/** Judged by the control plane: the schema can't say what a URL is. */
export const onMemoryPressure = z
  .custom<MemoryAction>((value) => typeof value === 'string')
  .meta({
    type: 'string',
    description:
      'What is done when it is near its limit of memory, where it has a maximum at that: `warn`, `pause` (in ' +
      'memory), `snapshot`, or a URL to which the event is posted. `grow`: of one with a maximum, as `warn`.',
    examples: ['snapshot'],
  });
export const networkMode = z
  .enum(['none', 'allowlist', 'open'])
  .describe(
    '`none`: nothing leaves. `allowlist`: what a rule allows. `open`: the internet, less what is denied.',
  );
const bytesPerSecond = whole(LIMITS.networkBytesPerSecondMin, LIMITS.networkBytesPerSecondMax);
export const networkLimits = z.strictObject({
  bytesMax: whole(1, LIMITS.networkBytesMax)
    .exactOptional()
    .describe('Both directions, in the life of the sandbox. Then its connections are reset.'),
  uploadBytesPerSecond: bytesPerSecond.exactOptional().describe('From the guest.'),
  downloadBytesPerSecond: bytesPerSecond.exactOptional().describe('To the guest.'),
  connectionsMax: whole(1, LIMITS.networkConnectionsMax)
    .exactOptional()
    .describe('At one time. Default 2048.'),
  destinations: z
    .array(
      z.strictObject({
        name: z
          .string()
          .min(1)
          .max(255)
          .describe('`api.example.com`, or `*.example.com`: all below.'),
        bytesMax: whole(1, LIMITS.networkBytesMax),
      } satisfies Record<keyof DestinationLimit, z.ZodType>),
    )
    .max(LIMITS.networkDestinationsMax)
    .exactOptional()
    .describe('By name, at ports 80 and 443, both directions. Then its connections are reset.'),
} satisfies Record<keyof NetworkLimits, z.ZodType>);
export const diskLimits = z
  .strictObject({
    bytesPerSecond: whole(LIMITS.diskBytesPerSecondMin, LIMITS.diskBytesPerSecondMax)
      .exactOptional()
      .describe('Read and written together.'),
    opsPerSecond: whole(LIMITS.diskOpsPerSecondMin, LIMITS.diskOpsPerSecondMax)
      .exactOptional()
      .describe('Reads and writes together.'),
  } satisfies Record<keyof DiskLimits, z.ZodType>)
  .describe('Of both its disks together; with Firecracker of each.');
