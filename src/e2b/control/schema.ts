/** Requests and answers of the control plane, as E2B's clients send and expect them. */
import { z } from 'zod';
import { RANGES } from '../../sandbox/limits.ts';

const SECONDS_MAX = RANGES.timeoutMs.max / 1000;
const timeout = z.number().int().min(0).max(SECONDS_MAX);
const pairs = z.record(z.string(), z.string());

const networkFields = {
  allowOut: z.array(z.string()).optional(),
  denyOut: z.array(z.string()).optional(),
  allowPublicTraffic: z.boolean().optional(),
  maskRequestHost: z.string().optional(),
};

/** Unknown fields are dropped, as E2B does: clients are newer than servers. */
export const createBody = z.object({
  templateID: z.string().min(1).max(256),
  timeout: timeout.optional(),
  metadata: pairs.nullish(),
  envVars: pairs.nullish(),
  allow_internet_access: z.boolean().nullish(),
  autoPause: z.boolean().nullish(),
  autoPauseMemory: z.boolean().nullish(),
  autoResume: z.object({ enabled: z.boolean() }).nullish(),
  secure: z.boolean().nullish(),
  network: z.object(networkFields).nullish(),
  volumeMounts: z.array(z.unknown()).nullish(),
  mcp: z.unknown().optional(),
});
export type CreateBody = z.infer<typeof createBody>;

export const connectBody = z.object({
  timeout: timeout.optional(),
  memory: z.boolean().optional(),
});
export const timeoutBody = z.object({ timeout });
export const pauseBody = z.object({
  memory: z.boolean().optional(),
  requireHealthyGuest: z.boolean().optional(),
});
export const idParams = z.object({ id: z.string().max(64) });

export const sandboxAnswer = z.object({
  templateID: z.string(),
  sandboxID: z.string(),
  clientID: z.string(),
  envdVersion: z.string(),
  envdAccessToken: z.string().optional(),
  trafficAccessToken: z.string().nullable(),
  domain: z.string().nullable(),
  alias: z.string().optional(),
});
export const listedSandbox = z.object({
  templateID: z.string(),
  sandboxID: z.string(),
  clientID: z.string(),
  envdVersion: z.string(),
  alias: z.string().optional(),
  startedAt: z.string(),
  endAt: z.string(),
  cpuCount: z.number(),
  memoryMB: z.number(),
  diskSizeMB: z.number(),
  state: z.enum(['running', 'paused']),
  metadata: pairs,
});
export const sandboxDetail = listedSandbox.extend({
  envdAccessToken: z.string(),
  allowInternetAccess: z.boolean().nullable(),
  domain: z.string().nullable(),
  network: z.object(networkFields).optional(),
  lifecycle: z.object({ autoResume: z.boolean(), onTimeout: z.enum(['kill', 'pause']) }),
});
export const errorAnswer = z.object({
  code: z.number(),
  message: z.string(),
  error_code: z.string().optional(),
});
