/** Derives E2B's events from the changes of sandboxes. */
import { randomUUID } from 'node:crypto';
import type { Clock } from '../../../base/clock.ts';
import { describeError, ifThere } from '../../../base/errors.ts';
import type { Log } from '../../../base/log.ts';
import type { ControlPlane, SandboxInfo } from '../../../sandbox/contract/control.ts';
import { ownerOf, ownName } from '../../tenants/owner.ts';
import { keptOf } from '../kept.ts';
import type { EventJournal, EventType, NewEvent, StoredEvent } from './journal.ts';

export interface LifecycleParts {
  readonly control: Pick<ControlPlane, 'onChange' | 'list' | 'get' | 'snapshots'>;
  readonly journal: EventJournal;
  readonly clock: Clock;
  readonly log: Log;
  readonly onEvent: (event: NewEvent) => void;
}

interface Known {
  readonly isPaused: boolean;
  readonly execution: string;
  readonly executionAtMs: number;
  readonly settings: string;
  readonly endsAtMs: number | null;
  /** Start of the running save; `null` if there is none. */
  readonly savingSinceMs: number | null;
}

export interface LifecycleNotes {
  /** First records the ends of sandboxes that ended while no daemon ran. Call it when those left were taken over. */
  begin(): Promise<void>;
  stop(): void;
}

/** Records events from now on; writes none before `begin`. */
export function noteLifecycle(parts: LifecycleParts): LifecycleNotes {
  const { control, journal, clock, log, onEvent } = parts;
  const known = new Map<string, Known>();
  const waiting: SandboxInfo[] = [];
  let isReady = false;
  const note = (event: NewEvent): void => {
    try {
      journal.append(event);
      onEvent(event);
    } catch (error) {
      log.error('an event of a sandbox was not stored', { error: describeError(error) });
    }
  };
  const take = (info: SandboxInfo): void => {
    const { next, events, savedSinceMs } = eventsOf(known.get(info.id), info, clock.wall());
    if (next === undefined) known.delete(info.id);
    else known.set(info.id, next);
    for (const event of events) note(event);
    if (next === undefined || savedSinceMs === null) return;
    const { execution } = next;
    noteSnapshots(control, info, savedSinceMs, (data) =>
      note(eventOf(info, 'sandbox.lifecycle.checkpointed', execution, clock.wall(), data)),
    ).catch((error: unknown) => log.warn('a snapshot may have no event', { error: describeError(error) }));
  };
  const stop = control.onChange((info) => {
    if (isReady) take(info);
    else waiting.push(info);
  });
  const sinceMs = Math.floor(clock.wall());
  const begin = async (): Promise<void> => {
    const present = new Map((await control.list()).map((info) => [info.id, info]));
    const recorded = journal.open();
    const before = new Set(recorded.map(({ sandboxId }) => sandboxId));
    // The others have told of a change because they were taken over.
    const isNew = ({ id, createdAtMs }: SandboxInfo): boolean => createdAtMs >= sinceMs && !before.has(id);
    for (const event of recorded) if (!present.has(event.sandboxId)) await noteEnd(event);
    for (const info of present.values())
      if (!isNew(info) || !waiting.some(({ id }) => id === info.id)) known.set(info.id, knownOf(info, clock.wall()));
    isReady = true;
    for (const info of waiting) if (known.has(info.id) || isNew(info)) take(info);
  };
  const noteEnd = async (event: StoredEvent): Promise<void> => {
    const { seq: _seq, id: _id, ...rest } = event;
    // A list has only the newest of the ended ones.
    const ended = await ifThere(control.get(event.sandboxId), 'not_found');
    const data = { end: { cause: ended?.end?.cause ?? 'host-lost' } };
    note({ ...rest, type: 'sandbox.lifecycle.killed', atMs: clock.wall(), data });
  };
  return { begin, stop };
}

/** Pure, except for ids. */
export function eventsOf(
  before: Known | undefined,
  info: SandboxInfo,
  nowMs: number,
): {
  readonly next: Known | undefined;
  readonly events: readonly NewEvent[];
  /** Start of the save that has ended; `null` if none has. */
  readonly savedSinceMs: number | null;
} {
  const { status } = info;
  if (status === 'ended') {
    const events = before === undefined ? [] : [killed(before, info, nowMs)];
    return { next: undefined, events, savedSinceMs: null };
  }
  if (status === 'saving' && before !== undefined) {
    const savingSinceMs = before.savingSinceMs ?? nowMs;
    return { next: { ...before, savingSinceMs }, events: [], savedSinceMs: null };
  }
  if (status !== 'running' && status !== 'paused') {
    return { next: before, events: [], savedSinceMs: null };
  }
  const now = knownOf(info, nowMs);
  if (before === undefined) {
    const data = { sandbox_metadata: info.metadata, origin: info.origin, parent: info.parent };
    const events = [eventOf(info, 'sandbox.lifecycle.created', now.execution, nowMs, data)];
    if (now.isPaused) events.push(paused(now, info, nowMs));
    return { next: now, events, savedSinceMs: null };
  }
  const { execution, executionAtMs, savingSinceMs } = before;
  if (now.isPaused !== before.isPaused) {
    const event = now.isPaused
      ? paused(before, info, nowMs)
      : eventOf(info, 'sandbox.lifecycle.resumed', now.execution, nowMs, { sandbox_metadata: info.metadata });
    const next = now.isPaused ? { ...now, execution, executionAtMs } : now;
    return { next, events: [event], savedSinceMs: null };
  }
  const next = { ...now, execution, executionAtMs };
  const events = isUpdated(before, now)
    ? [eventOf(info, 'sandbox.lifecycle.updated', execution, nowMs, updateOf(info))]
    : [];
  return { next, events, savedSinceMs: savingSinceMs };
}

/** A timeout that begins with a start or a resume is no update. */
const isUpdated = (before: Known, now: Known): boolean =>
  before.settings !== now.settings ||
  (before.endsAtMs !== null && now.endsAtMs !== null && before.endsAtMs !== now.endsAtMs);

function updateOf({ metadata, endsAtMs }: SandboxInfo): Record<string, unknown> {
  const timeout = endsAtMs === null ? {} : { set_timeout: new Date(endsAtMs).toISOString() };
  return { sandbox_metadata: metadata, ...timeout };
}

function knownOf(info: SandboxInfo, nowMs: number): Known {
  const { metadata, onTimeout, autoResume, network, memoryMib } = info;
  const rules = network === null ? null : { ...network, gatewayUse: null, address: null };
  return {
    isPaused: info.status === 'paused',
    execution: randomUUID(),
    executionAtMs: nowMs,
    settings: JSON.stringify({ metadata, onTimeout, autoResume, rules, memoryMib }),
    endsAtMs: info.endsAtMs,
    savingSinceMs: null,
  };
}

const paused = (known: Known, info: SandboxInfo, nowMs: number): NewEvent =>
  eventOf(info, 'sandbox.lifecycle.paused', known.execution, nowMs, runOf(known, info, nowMs));

function killed(known: Known, info: SandboxInfo, nowMs: number): NewEvent {
  const data = { ...runOf(known, info, nowMs), end: { cause: info.end?.cause ?? null } };
  return eventOf(info, 'sandbox.lifecycle.killed', known.execution, nowMs, data);
}

function runOf({ executionAtMs, isPaused }: Known, info: SandboxInfo, nowMs: number) {
  const execution = {
    started_at: new Date(executionAtMs).toISOString(),
    vcpu_count: info.cpus,
    memory_mb: info.memoryMib,
    execution_time: nowMs - executionAtMs,
  };
  // A paused sandbox had the event of its run when it was paused.
  return { sandbox_metadata: info.metadata, ...(isPaused ? {} : { execution }) };
}

function eventOf(
  info: SandboxInfo,
  type: EventType,
  execution: string,
  atMs: number,
  data: Record<string, unknown>,
): NewEvent {
  const { template } = keptOf(info);
  return { type, tenant: ownerOf(info), sandboxId: info.id, template, execution, atMs, data };
}

/** A save is a snapshot, or a copy for forks, which have events of their own. */
async function noteSnapshots(
  control: Pick<ControlPlane, 'snapshots'>,
  { id }: SandboxInfo,
  sinceMs: number,
  note: (data: Record<string, unknown>) => void,
): Promise<void> {
  const all = await control.snapshots();
  for (const one of all.filter(({ sandbox, createdAtMs }) => sandbox === id && createdAtMs >= sinceMs))
    note({ snapshot_id: one.id, snapshot_name: ownName(one) });
}
