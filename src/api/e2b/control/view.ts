/** A sandbox as E2B's clients see it. */
import type { z } from 'zod';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { RANGES } from '../../../sandbox/contract/limits.ts';
import { keptOf } from '../kept.ts';
import type { E2bParts } from '../parts.ts';
import { rulesOf } from './rules.ts';
import type { listedSandbox, sandboxAnswer, sandboxDetail } from './schema.ts';

/** Satisfies all clients, which compare envd versions. */
export const ENVD_VERSION = '0.6.13';
const CLIENT_ID = 'neurovisor';

type ViewParts = Pick<E2bParts, 'tokens' | 'domain'>;

export function sandboxView(info: SandboxInfo, parts: ViewParts): z.input<typeof sandboxAnswer> {
  const { tokens, domain } = parts;
  return {
    templateID: keptOf(info).template,
    sandboxID: info.id,
    clientID: CLIENT_ID,
    envdVersion: ENVD_VERSION,
    envdAccessToken: tokens.envd(info.id),
    // Also for public ports: clients of the code interpreter send it, and that port is never public.
    trafficAccessToken: tokens.traffic(info.id),
    domain: domain(),
  };
}

const PAUSED: readonly SandboxInfo['status'][] = ['paused', 'resuming'];
const OVER: readonly SandboxInfo['status'][] = ['ending', 'ended'];

export const isListed = ({ status }: SandboxInfo): boolean => !OVER.includes(status);

/** E2B has no states between these. */
export const stateOf = ({ status }: SandboxInfo): 'running' | 'paused' =>
  PAUSED.includes(status) ? 'paused' : 'running';

export function listedView(info: SandboxInfo): z.input<typeof listedSandbox> {
  return {
    templateID: keptOf(info).template,
    sandboxID: info.id,
    clientID: CLIENT_ID,
    envdVersion: ENVD_VERSION,
    startedAt: time(info.createdAtMs),
    endAt: time(endOf(info)),
    cpuCount: info.cpus,
    memoryMB: info.memoryMib,
    diskSizeMB: info.diskMib,
    state: stateOf(info),
    metadata: info.metadata,
    ...(info.volumes.length === 0 ? {} : { volumeMounts: info.volumes.map(({ name, path }) => ({ name, path })) }),
  };
}

export function detailView(info: SandboxInfo, parts: ViewParts): z.input<typeof sandboxDetail> {
  const { network: settings, allowInternetAccess } = keptOf(info);
  const rules = rulesOf(info);
  const network = rules === undefined ? settings : { ...settings, rules };
  return {
    ...listedView(info),
    envdAccessToken: parts.tokens.envd(info.id),
    allowInternetAccess,
    domain: parts.domain(),
    ...(network === undefined ? {} : { network }),
    lifecycle: { autoResume: info.autoResume, onTimeout: info.onTimeout === 'kill' ? 'kill' : 'pause' },
  };
}

/** A sandbox of another interface may run forever, which E2B's do not. */
function endOf(info: SandboxInfo): number {
  const { createdAtMs, endsAtMs } = info;
  if (endsAtMs !== null) return endsAtMs;
  return stateOf(info) === 'paused' ? createdAtMs : createdAtMs + RANGES.timeoutMs.max;
}

const time = (ms: number): string => new Date(ms).toISOString();
