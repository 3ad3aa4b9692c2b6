/** Data that this interface keeps as an annotation of a sandbox that it creates. */
import { z } from 'zod';
import { tryOr } from '../../base/ignore.ts';
import { EGRESS_LIMITS } from '../../base/request/egress-limits.ts';
import type { SandboxInfo } from '../../sandbox/contract/control.ts';
import { RANGES, REQUEST_LIMITS } from '../../sandbox/contract/limits.ts';
import { list, record } from '../../sandbox/contract/schema/values.ts';
import { E2B_LIMITS } from './limits.ts';

const KEY = 'e2b';

const rules = list(z.string().max(EGRESS_LIMITS.ruleCharactersMax), EGRESS_LIMITS.rulesMax).nullish();
const headers = record(
  z.string(),
  z.string().max(RANGES.requestHeaderCharacters.max),
  REQUEST_LIMITS.requestHeadersOfHostMax,
);
/** Strict: a change that is not applied must be refused. */
const transforms = record(
  z.string().min(1).max(E2B_LIMITS.hostCharactersMax),
  list(
    z.strictObject({ transform: z.strictObject({ headers: headers.nullish() }).nullish() }),
    E2B_LIMITS.rulesOfHostMax,
  ).nullable(),
  REQUEST_LIMITS.requestHeadersMax,
).describe(
  'Header fields that are set in each HTTPS request to a host, or to all names below it (`*.example.com`). Answers show no values.',
);
export type Rules = z.infer<typeof transforms>;
/** The part of the settings that an update replaces. */
export const networkLists = {
  allowOut: rules,
  denyOut: rules,
  rules: transforms.nullish(),
  egressProxy: z.unknown().optional().describe('Not supported: refused.'),
  dnsServers: z.unknown().optional().describe('Not supported: refused.'),
};
/** The other settings, which stay for the sandbox's life. */
export const e2bNetwork = z.object({
  allowPublicTraffic: z.boolean().nullish(),
  maskRequestHost: z.string().max(E2B_LIMITS.hostCharactersMax).nullish(),
  httpsPorts: list(z.number().int().min(1).max(65_535), E2B_LIMITS.httpsPortsMax)
    .nullish()
    .describe('Ports whose programs serve HTTPS; their certificates are not verified.'),
});
const keptRules = z.array(z.string()).optional();
const network = z.object({
  allowOut: keptRules,
  denyOut: keptRules,
  allowPublicTraffic: z.boolean().optional(),
  maskRequestHost: z.string().optional(),
  httpsPorts: z.array(z.number()).optional(),
});
const kept = z.object({
  /** As the client named it. */
  template: z.string(),
  /** `null` if the client did not say, so that the sandbox has internet access. */
  allowInternetAccess: z.boolean().nullable(),
  network: network.optional(),
});

export type Kept = z.infer<typeof kept>;

export function formatKept(value: Kept): Readonly<Record<string, string>> {
  return { [KEY]: JSON.stringify(value) };
}

/** For a sandbox that another interface created, derives the values. */
export function keptOf(info: Pick<SandboxInfo, 'annotations' | 'template' | 'network'>): Kept {
  const text = info.annotations[KEY];
  const otherwise = { template: info.template ?? 'agent', allowInternetAccess: info.network !== null };
  if (text === undefined) return otherwise;
  return tryOr(otherwise, 'kept by another version', () => kept.parse(JSON.parse(text)));
}

/** True if its ports are open to callers without its traffic token. */
export const isPublic = (info: Parameters<typeof keptOf>[0]): boolean =>
  keptOf(info).network?.allowPublicTraffic !== false;

/** Variables that tell programs that they run in an E2B sandbox. */
export const marksOf = (id: string, template: string): Readonly<Record<string, string>> => ({
  E2B_SANDBOX: 'true',
  E2B_SANDBOX_ID: id,
  E2B_TEMPLATE_ID: template,
});
