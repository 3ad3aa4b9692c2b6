/** Rows of `inspect`: lifetime, provenance, limits, network and secrets of a sandbox. Pure. */

import {
  type BudgetKind,
  type BudgetState,
  type BudgetUse,
  budgetStates,
  type ModelBudget,
  type ModelCache,
  type SharedBudget,
} from '../../base/request/model-limits.ts';
import { placeText } from '../../base/request/secret-place.ts';
import { dollarsText } from '../../base/text/dollars.ts';
import type { PauseReason, SandboxInfo } from '../../sandbox/contract/control.ts';
import { bytes, coarse } from './table.ts';

type Row = readonly [name: string, value: string];

/** @param now milliseconds since 1970 */
export function lifetimeRows(
  info: Pick<SandboxInfo, 'end' | 'endsAtMs' | 'onTimeout' | 'idleTimeoutMs' | 'autoResume'>,
  now: number,
): readonly Row[] {
  const { end, endsAtMs, onTimeout, idleTimeoutMs, autoResume } = info;
  if (end !== null) return [];
  const what = onTimeout === 'kill' ? 'ends' : 'pauses';
  return [
    ...(endsAtMs === null ? [] : [['timeout', `${what} in ${coarse(endsAtMs - now)}`] as const]),
    ...(idleTimeoutMs === null ? [] : [['when idle', `pauses after ${coarse(idleTimeoutMs)}`] as const]),
    ...(autoResume ? [] : [['when paused', 'no automatic resume'] as const]),
  ];
}

export function provenanceRows({
  snapshot,
  template,
  parent,
}: Pick<SandboxInfo, 'snapshot' | 'template' | 'parent'>): readonly Row[] {
  return [
    ...(snapshot === null ? [] : [['snapshot', snapshot] as const]),
    ...(template === null ? [] : [['template', template] as const]),
    ...(parent === null ? [] : [['fork of', parent] as const]),
  ];
}

export function imageRows(image: SandboxInfo['image']): readonly Row[] {
  if (image === null) return [];
  const { name, digest, user, workdir, entrypoint, cmd, exposedPorts, stopSignal } = image;
  return [
    ['image', name],
    ['image digest', digest],
    ['image user', `${user === '' ? 'root' : user} in ${workdir}`],
    ...(entrypoint.length === 0 ? [] : [['entrypoint', entrypoint.join(' ')] as const]),
    ...(cmd.length === 0 ? [] : [['command', cmd.join(' ')] as const]),
    ...(exposedPorts.length === 0 ? [] : [['image ports', exposedPorts.join(' ')] as const]),
    ...(stopSignal === null ? [] : [['stop signal', stopSignal] as const]),
  ];
}

export function secretRows({ secrets }: Pick<SandboxInfo, 'secrets'>): readonly Row[] {
  return secrets.map(({ name, sets, hosts, places, held }) => {
    if (sets !== undefined) {
      const lost = held ? '' : '; value missing, set it again';
      return ['header', `${sets} set at ${hosts.join(', ')}${lost}`] as const;
    }
    const missing = held ? '' : '; value missing, set it again with neurovisor update --secret';
    const where = places.length === 0 ? '' : ` in ${places.map(placeText).join(', ')}`;
    return ['secret', `${name} at ${hosts.join(', ')}${where}${missing}`] as const;
  });
}

export function diskRows({ bytesPerSecond, opsPerSecond }: SandboxInfo['diskLimits']): readonly Row[] {
  const words = [
    ...(bytesPerSecond === undefined ? [] : [`${bytes(bytesPerSecond)}/s`]),
    ...(opsPerSecond === undefined ? [] : [`${opsPerSecond} operations/s`]),
  ];
  return words.length === 0 ? [] : [['disk limits', words.join(', ')] as const];
}

/** @param now milliseconds since 1970 */
export function budgetRows(
  { id, models, modelUse }: Pick<SandboxInfo, 'id' | 'models' | 'modelUse'>,
  now: number,
): readonly Row[] {
  const { priority, budget, cache } = models;
  const { account, used } = modelUse;
  const { tokensPerMinute } = budget;
  const limits = limitRows('model budget', budget, used, now);
  return [
    ...(priority === 'normal' ? [] : [['model priority', priority] as const]),
    ...limits,
    ...(limits.length === 0 || account === id ? [] : [['budget of', account] as const]),
    ...(tokensPerMinute === undefined ? [] : [['model rate', `${tokensPerMinute} tokens per minute`] as const]),
    ...(cache === null ? [] : [['model cache', cacheText(cache)] as const]),
  ];
}

/** @param now milliseconds since 1970 */
export function sharedBudgetRows(shared: readonly SharedBudget[], now: number): readonly Row[] {
  return shared.flatMap(({ tenant, limits, used }) =>
    limitRows(tenant === null ? 'model budget' : `budget of ${tenant}`, limits, used, now),
  );
}

function limitRows(name: string, budget: ModelBudget, used: BudgetUse | null, now: number): readonly Row[] {
  const { windowMs } = budget;
  const per = windowMs === undefined ? '' : ` per ${coarse(windowMs)}`;
  return budgetStates(budget, used, now).map((state) => [name, `${budgetText(state)}${per}`]);
}

const cacheText = ({ ttlMs, requests }: ModelCache): string =>
  `${coarse(ttlMs)}${requests === 'all' ? ', every request' : ''}`;

function budgetText({ kind, used, limit }: BudgetState): string {
  if (kind === 'costNanoDollars') return `$${dollarsText(used)} of $${dollarsText(limit)}`;
  return `${used} of ${limit} ${BUDGET_WORDS[kind]}`;
}

const BUDGET_WORDS: Readonly<Record<Exclude<BudgetKind, 'costNanoDollars'>, string>> = {
  inputTokens: 'tokens of prompts',
  outputTokens: 'tokens of answers',
  requests: 'requests',
};

export function networkRows(network: SandboxInfo['network']): readonly Row[] {
  if (network === null) return [];
  const { mode, allow, deny, address, gatewayUse } = network;
  const { refused = {}, destinations = [] } = gatewayUse ?? {};
  return [
    ['network', address === null ? mode : `${mode}, ${address}`],
    ...allow.map((rule) => ['allowed', rule] as const),
    ...deny.map((rule) => ['denied', rule] as const),
    ...destinations.map((limit) => ['limit', destinationText(limit, limit.bytesUsed)] as const),
    ...Object.entries(refused).map(([reason, count]) => ['refused by name', `${count}: ${reason}`] as const),
  ];
}

/** The limit of one name. @param bytesUsed undefined: unknown */
export function destinationText(
  { name, bytesMax }: { readonly name: string; readonly bytesMax: number },
  bytesUsed: number | undefined,
): string {
  const left = bytesUsed === undefined ? '' : `, ${bytes(bytesMax - bytesUsed)} left`;
  return `${bytes(bytesMax)} with ${name}${left}`;
}

/** `paused (disk, host memory)`, `ended (timeout)`. */
export function statusText({
  status,
  pausedTo,
  pauseReason,
  foreignPause,
  end,
}: Pick<SandboxInfo, 'status' | 'pausedTo' | 'pauseReason' | 'foreignPause' | 'end'>): string {
  const why = pauseReason === null ? '' : `, ${PAUSE_REASONS[pauseReason]}`;
  const by = foreignPause === null ? '' : `, only for ${foreignPause}`;
  const more = pausedTo === null ? end?.cause : `${pausedTo}${why}${by}`;
  return more === undefined ? status : `${status} (${more})`;
}

const PAUSE_REASONS: Readonly<Record<PauseReason, string>> = {
  'daemon-stopped': 'daemon stopped',
  'host-memory': 'memory of the host short',
  idle: 'idle',
  timeout: 'timeout',
};

/** Current memory, and the maximum if there is one. */
export function memoryText({ memoryMib, memoryMaxMib }: Pick<SandboxInfo, 'memoryMib' | 'memoryMaxMib'>): string {
  return memoryMaxMib === null ? `${memoryMib} MiB` : `${memoryMib} of ${memoryMaxMib} MiB`;
}
