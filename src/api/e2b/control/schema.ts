/** Requests and answers of the control plane, as E2B's clients send and expect them. */
import { z } from 'zod';
import { RANGES, REQUEST_LIMITS } from '../../../sandbox/contract/limits.ts';
import { list, record } from '../../../sandbox/contract/schema/values.ts';
import { integerText } from '../integer-text.ts';
import { e2bNetwork, networkLists } from '../kept.ts';
import { E2B_LIMITS } from '../limits.ts';

/** Generation of the routes that create and connect. */
export type Version = 'v1' | 'v2';

/** Names schemas of the OpenAPI document, which differ from those of our own interface. */
export const e2bSchemas = z.registry<{ id: string }>();
function named<T extends z.ZodType>(id: string, schema: T): T {
  e2bSchemas.add(schema, { id });
  return schema;
}

const whole = (min: number, max: number) => z.number().int().min(min).max(max);
const seconds = whole(0, RANGES.timeoutMs.max / 1000).describe('Seconds.');
const pairs = z.record(z.string(), z.string());

const network = named('SandboxNetworkConfig', e2bNetwork.extend(networkLists));
const volumeMounts = named(
  'SandboxVolumeMount',
  z.object({
    name: z.string().max(E2B_LIMITS.templateCharactersMax),
    path: z.string().max(REQUEST_LIMITS.volumePathCharactersMax),
  }),
);

/** Unknown fields are dropped, as E2B does: clients are newer than servers. */
export const createBody = named(
  'NewSandbox',
  z.object({
    templateID: z.string().min(1).max(E2B_LIMITS.templateCharactersMax),
    timeout: seconds.optional(),
    metadata: record(z.string(), z.string(), REQUEST_LIMITS.metadataPairsMax).nullish(),
    envVars: record(z.string(), z.string(), REQUEST_LIMITS.envVariablesMax).nullish(),
    allow_internet_access: z.boolean().nullish(),
    autoPause: z.boolean().nullish(),
    autoPauseMemory: z.boolean().nullish(),
    autoResume: named('SandboxAutoResumeConfig', z.object({ enabled: z.boolean() })).nullish(),
    secure: z.boolean().nullish(),
    network: network.nullish(),
    volumeMounts: list(volumeMounts, REQUEST_LIMITS.volumesMax).nullish(),
    mcp: z.unknown().optional().describe('Not supported: refused.'),
    iam: named(
      'SandboxIam',
      z.object({ tokens: record(z.string(), z.unknown(), E2B_LIMITS.identityTokensMax).nullish() }),
    )
      .nullish()
      .describe('Not supported: tokens are refused.'),
  }),
);
export type CreateBody = z.infer<typeof createBody>;
export const createHeaders = z.object({
  'idempotency-key': z
    .string()
    .regex(/^[a-z0-9-]{1,255}$/, { error: 'expected 1 to 255 characters of a-z, 0-9 and -' })
    .optional()
    .describe('The same key within 10 minutes returns the same sandbox.'),
});

export const connectBody = named(
  'ConnectSandbox',
  z.object({ timeout: seconds.optional(), memory: z.boolean().optional() }),
);
export const resumeBody = named(
  'ResumedSandbox',
  z.object({ timeout: seconds.optional(), memory: z.boolean().optional(), autoPause: z.boolean().optional() }),
);
export const timeoutBody = named('SandboxTimeoutRequest', z.object({ timeout: seconds }));
export const refreshBody = named('SandboxRefreshRequest', z.object({ duration: seconds.optional() }));
export const pauseBody = named(
  'SandboxPauseRequest',
  z.object({ memory: z.boolean().optional(), requireHealthyGuest: z.boolean().optional() }),
);
export const forkBody = named(
  'SandboxForkRequest',
  z.object({ timeout: seconds.optional(), count: whole(RANGES.forks.min, RANGES.forks.max).optional() }),
);
export const snapshotBody = named(
  'SandboxSnapshotRequest',
  z.object({
    name: z.string().min(1).max(E2B_LIMITS.templateCharactersMax).optional(),
    memory: z.boolean().optional(),
  }),
);
export const networkBody = named(
  'SandboxNetworkUpdateConfig',
  z.object({ ...networkLists, allow_internet_access: z.boolean().nullish() }),
);
export type NetworkBody = z.infer<typeof networkBody>;

export const idParams = z.object({ sandboxID: z.string().max(E2B_LIMITS.idCharactersMax) });
export const templateParams = z.object({ id: z.string().max(E2B_LIMITS.templateCharactersMax) });

const limit = integerText(1, E2B_LIMITS.pageMax).optional();
const nextToken = z.string().max(E2B_LIMITS.tokenCharactersMax).optional();
const STATES = ['running', 'paused'] as const;
/** Accepts `a,b` and repeated parameters alike, as E2B does. */
const commas = z
  .union([z.string(), list(z.string(), E2B_LIMITS.pageMax)])
  .transform((value) => [value].flat().flatMap((one) => one.split(',')));

export const listQuery = z.object({
  metadata: z.string().optional().describe('`key=value&…`; keys, values and then the whole are URL encoded.'),
  state: commas.pipe(list(z.enum(STATES), E2B_LIMITS.pageMax)).optional(),
  startedAfter: z.iso.datetime({ offset: true }).optional(),
  template: z.string().optional(),
  order: z.enum(['asc', 'desc']).optional(),
  limit,
  nextToken,
});
export type ListQuery = z.infer<typeof listQuery>;
export const oldListQuery = z.object({ metadata: listQuery.shape.metadata });
export const snapshotQuery = z.object({
  sandboxID: z.string().optional(),
  name: z.string().optional(),
  limit,
  nextToken,
});
const unixSeconds = integerText(0, 1e12).optional();
export const metricsQuery = z.object({ start: unixSeconds, end: unixSeconds });
export const manyMetricsQuery = z.object({ sandbox_ids: commas.pipe(list(z.string(), E2B_LIMITS.pageMax)) });
const logsMax = integerText(1, E2B_LIMITS.logLinesMax).optional();
const logsFrom = integerText(0, Number.MAX_SAFE_INTEGER).optional().describe('Milliseconds since 1970.');
export const LOG_LEVELS = ['debug', 'info', 'warn', 'error'] as const;
export const oldLogsQuery = z.object({ start: logsFrom, limit: logsMax });
export const logsQuery = z.object({
  cursor: logsFrom,
  limit: logsMax,
  direction: z.enum(['forward', 'backward']).optional(),
  level: z.enum(LOG_LEVELS).optional(),
  search: z.string().max(E2B_LIMITS.templateCharactersMax).optional(),
});

export const sandboxAnswer = named(
  'Sandbox',
  z.object({
    templateID: z.string(),
    sandboxID: z.string(),
    clientID: z.string(),
    envdVersion: z.string(),
    envdAccessToken: z.string().optional(),
    trafficAccessToken: z.string().nullable(),
    domain: z.string().nullable(),
    alias: z.string().optional(),
  }),
);
const listed = {
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
  state: z.enum(STATES),
  metadata: pairs,
  volumeMounts: z.array(volumeMounts).optional(),
};
export const listedSandbox = named('ListedSandbox', z.object(listed));
export const sandboxDetail = named(
  'SandboxDetail',
  z.object({
    ...listed,
    envdAccessToken: z.string(),
    allowInternetAccess: z.boolean().nullable().describe('Null: the request did not say, and it has the internet.'),
    domain: z.string().nullable(),
    network: network.optional(),
    lifecycle: named('SandboxLifecycle', z.object({ autoResume: z.boolean(), onTimeout: z.enum(['kill', 'pause']) })),
  }),
);
export const errorAnswer = named(
  'Error',
  z.object({
    code: z.number().describe('The status of the answer.'),
    message: z.string(),
    error_code: z.string().optional(),
  }),
);
export const forkAnswer = z.array(
  named('SandboxForkResult', z.object({ sandbox: sandboxAnswer.optional(), error: errorAnswer.optional() })),
);
export const snapshotAnswer = named('SnapshotInfo', z.object({ snapshotID: z.string(), names: z.array(z.string()) }));
export const metricAnswer = named(
  'SandboxMetric',
  z.object({
    timestamp: z.string(),
    timestampUnix: z.number(),
    cpuCount: z.number(),
    cpuUsedPct: z.number(),
    memUsed: z.number(),
    memTotal: z.number(),
    memCache: z.number(),
    diskUsed: z.number(),
    diskTotal: z.number(),
  }),
);
export const manyMetricsAnswer = named(
  'SandboxesWithMetrics',
  z.object({ sandboxes: z.record(z.string(), metricAnswer) }),
);
export const logEntry = named(
  'SandboxLogEntry',
  z.object({ timestamp: z.string(), message: z.string(), level: z.enum(LOG_LEVELS), fields: pairs }),
);
export const oldLogsAnswer = named(
  'SandboxLogs',
  z.object({
    logs: z.array(named('SandboxLog', z.object({ timestamp: z.string(), line: z.string() }))),
    logEntries: z.array(logEntry),
  }),
);
export const logsAnswer = named('SandboxLogsV2Response', z.object({ logs: z.array(logEntry) }));

export const newVolume = named('NewVolume', z.object({ name: z.string().max(E2B_LIMITS.templateCharactersMax) }));
export const volumeParams = z.object({ volumeID: z.string().max(E2B_LIMITS.idCharactersMax) });
const volume = { volumeID: z.string(), name: z.string() };
export const volumeAnswer = named('Volume', z.object(volume));
export const volumeAndToken = named('VolumeAndToken', z.object({ ...volume, token: z.string() }));

const ownId = integerText(0, 0xffff_fffe).optional();
const owner = { uid: ownId, gid: ownId, mode: integerText(0, 0o7777).optional() };
export const fileOwner = z.object(owner);
export const fileQuery = z.object({ path: z.string().min(1).max(REQUEST_LIMITS.volumePathCharactersMax) });
const force = z.stringbool({ truthy: ['true'], falsy: ['false'] }).optional();
export const newFileQuery = fileQuery.extend({ ...owner, force });
export const directoryQuery = fileQuery.extend({ depth: integerText(1, E2B_LIMITS.volumeDepthMax).optional() });
export const volumeEntry = z.object({
  name: z.string(),
  path: z.string(),
  type: z.enum(['file', 'directory', 'symlink', 'unknown']),
  size: z.number(),
  mode: z.number(),
  uid: z.number(),
  gid: z.number(),
  atime: z.string(),
  mtime: z.string(),
  ctime: z.string(),
  target: z.string().optional(),
});

export const failures = { default: errorAnswer } as const;
export const nothing = z.null();
