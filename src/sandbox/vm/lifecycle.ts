/**
 * The states of one VM of a sandbox, in one table. Only the supervisor changes the state; an illegal pair is refused
 * with `{from, event}` and changes nothing (R-CP-3).
 */
import { stateDiagram } from '../../base/state-diagram.ts';
import { SandboxError } from '../contract/errors.ts';

export type SandboxState =
  /** Directory, disk and sockets are being created; no VM yet. */
  | 'creating'
  /** The VM runs; the agent has not said hello. */
  | 'booting'
  /** The agent confirmed its identity; operations are accepted. */
  | 'ready'
  /** The CPUs are stopped; memory is kept. */
  | 'paused'
  /** The VM is being saved: it has no channel, and is stopped while RAM and disk are copied. */
  | 'saving'
  | 'stopping'
  | 'gone'
  /** The sandbox never became ready, or the VM died; everything is released. */
  | 'failed';

export type SandboxEvent =
  | 'resources-made'
  | 'agent-confirmed'
  | 'pause'
  | 'resume'
  | 'save'
  | 'continue'
  | 'stop'
  | 'died'
  | 'released'
  | 'released-after-failure';

export const TRANSITIONS: Readonly<Record<SandboxState, Readonly<Partial<Record<SandboxEvent, SandboxState>>>>> = {
  creating: { 'resources-made': 'booting', stop: 'stopping', died: 'stopping' },
  booting: { 'agent-confirmed': 'ready', stop: 'stopping', died: 'stopping' },
  ready: { pause: 'paused', save: 'saving', stop: 'stopping', died: 'stopping' },
  paused: { resume: 'ready', stop: 'stopping', died: 'stopping' },
  saving: { continue: 'ready', stop: 'stopping', died: 'stopping' },
  stopping: { released: 'gone', 'released-after-failure': 'failed' },
  gone: {},
  failed: {},
};

export type TransitionResult =
  | { readonly ok: true; readonly state: SandboxState }
  | { readonly ok: false; readonly from: SandboxState; readonly event: SandboxEvent };

export function transition(from: SandboxState, event: SandboxEvent): TransitionResult {
  const state = TRANSITIONS[from][event];
  return state === undefined ? { ok: false, from, event } : { ok: true, state };
}

export function isFinal(state: SandboxState): boolean {
  return Object.keys(TRANSITIONS[state]).length === 0;
}

/** A test compares `docs/lifecycle.md` with this text. */
export function lifecycleDiagram(): string {
  return stateDiagram(['creating'], TRANSITIONS);
}

/** `gone`: never legal again; `not_ready`: perhaps later. */
export function refusalOf(result: Exclude<TransitionResult, { ok: true }>): SandboxError {
  const code = isFinal(result.from) || result.from === 'stopping' ? 'gone' : 'not_ready';
  return new SandboxError(code, `"${result.event}" is not possible while ${result.from}`);
}
