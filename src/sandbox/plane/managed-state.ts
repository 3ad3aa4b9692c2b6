/**
 * The states of a sandbox over all its VMs, in one table. A supervisor has the states of one VM (`vm/lifecycle.ts`);
 * these say where the sandbox is: in a VM, or on disk.
 *
 * Illegal transitions do not compile, and fail an assertion where types were circumvented.
 */
import { assert } from '../../base/assert.ts';
import { stateDiagram } from '../../base/state-diagram.ts';
import type { SandboxInfo, SandboxStatus } from '../contract/control.ts';
import type { SandboxEnd } from '../contract/ending.ts';
import type { Supervisor } from '../vm/supervisor.ts';

interface InVm {
  readonly supervisor: Supervisor;
}

interface OnDisk {
  readonly snapshotId: string;
  /** Paused without its memory: a VM boots from its disk. */
  readonly isDiskOnly: boolean;
  /** This process owns the row in the store. */
  readonly isClaimed: boolean;
}

interface StateData {
  running: InVm;
  saving: InVm & { readonly wasPaused: boolean };
  /** The copy is committed, so the VM may die. */
  saved: InVm & Omit<OnDisk, 'isClaimed'> & { readonly wasPaused: boolean };
  /** In memory: the CPUs are stopped. */
  paused: InVm;
  /** Paused to disk. The first process that claims it owns it. */
  suspended: OnDisk;
  resuming: InVm;
  /** A VM starts from the snapshot, or boots from its disk. */
  restoring: OnDisk;
  ending: {
    readonly supervisor: Supervisor | undefined;
    readonly snapshotId: string | null;
    readonly isDiskOnly: boolean;
    readonly isClaimed: boolean;
    readonly pausedTo: SandboxInfo['pausedTo'];
  };
  ended: { readonly end: SandboxEnd };
}

export type StateKind = keyof StateData;
export type ManagedState = {
  [K in StateKind]: { readonly kind: K } & StateData[K];
}[StateKind];
export type StateOf<K extends StateKind> = Extract<ManagedState, { readonly kind: K }>;

export const MANAGED_TRANSITIONS = {
  running: { pause: 'paused', save: 'saving', end: 'ending', 'vm-ended': 'ended' },
  saving: { continue: 'running', 'pause-again': 'paused', commit: 'saved', end: 'ending', 'vm-ended': 'ended' },
  saved: { 'vm-released': 'suspended', end: 'ending' },
  paused: { resume: 'resuming', save: 'saving', end: 'ending', 'vm-ended': 'ended' },
  suspended: { claim: 'suspended', release: 'suspended', resume: 'restoring', end: 'ending' },
  resuming: { continue: 'running', 'pause-again': 'paused', end: 'ending', 'vm-ended': 'ended' },
  restoring: { claim: 'restoring', 'vm-ready': 'running', 'restore-failed': 'suspended', end: 'ending' },
  ending: {
    claim: 'ending',
    release: 'ending',
    commit: 'ending',
    'vm-ready': 'ending',
    'vm-ended': 'ended',
    removed: 'ended',
  },
  ended: {},
} as const satisfies Record<StateKind, Readonly<Record<string, StateKind>>>;

type Table = typeof MANAGED_TRANSITIONS;
/** The events that are legal in every state of `S`. */
export type EventOf<S extends ManagedState> = keyof Table[S['kind']] & string;
type Target<S extends ManagedState, E> = S extends ManagedState
  ? E extends keyof Table[S['kind']]
    ? Table[S['kind']][E] & StateKind
    : never
  : never;
export type TargetData<S extends ManagedState, E> = StateData[Target<S, E>];

export function transition<S extends ManagedState, E extends EventOf<S>>(
  from: S,
  event: E,
  data: TargetData<S, E>,
): ManagedState {
  const events: Readonly<Record<string, StateKind>> = MANAGED_TRANSITIONS[from.kind];
  const kind = events[event];
  assert(kind !== undefined, `"${event}" is not possible while ${from.kind}`);
  return { ...data, kind } as ManagedState;
}

export const STATUS: Readonly<Record<StateKind, SandboxStatus>> = {
  running: 'running',
  saving: 'saving',
  saved: 'saving',
  paused: 'paused',
  suspended: 'paused',
  resuming: 'resuming',
  restoring: 'resuming',
  ending: 'ending',
  ended: 'ended',
};

export function statusOf({ kind }: ManagedState): SandboxStatus {
  return STATUS[kind];
}

export function isIn<K extends StateKind>(state: ManagedState, kinds: readonly K[]): state is StateOf<K> {
  return kinds.some((kind) => kind === state.kind);
}

export function isOver({ kind }: ManagedState): boolean {
  return kind === 'ending' || kind === 'ended';
}

export function pausedToOf(state: ManagedState): SandboxInfo['pausedTo'] {
  switch (state.kind) {
    case 'paused':
    case 'resuming':
      return 'memory';
    case 'suspended':
    case 'restoring':
      return state.isDiskOnly ? 'disk-only' : 'disk';
    case 'saving':
    case 'saved':
      return state.wasPaused ? 'memory' : null;
    case 'ending':
      return state.pausedTo;
    default:
      return null;
  }
}

export function supervisorOf(state: ManagedState): Supervisor | undefined {
  return 'supervisor' in state ? state.supervisor : undefined;
}

/** The snapshot that holds the sandbox, once it is committed; `null` if the sandbox is in a VM, or over. */
export function snapshotIdOf(state: ManagedState): string | null {
  return 'snapshotId' in state ? state.snapshotId : null;
}

export class StateMachine {
  #state: ManagedState;
  readonly #onStatus: () => void;

  /** @param onStatus called when the status changes */
  constructor(initial: ManagedState, onStatus: () => void) {
    this.#state = initial;
    this.#onStatus = onStatus;
  }

  get state(): ManagedState {
    return this.#state;
  }

  get status(): SandboxStatus {
    return statusOf(this.#state);
  }

  get supervisor(): Supervisor | undefined {
    return supervisorOf(this.#state);
  }

  get snapshotId(): string | null {
    return snapshotIdOf(this.#state);
  }

  get isDiskOnly(): boolean {
    return 'isDiskOnly' in this.#state && this.#state.isDiskOnly;
  }

  get end(): SandboxEnd | null {
    return this.#state.kind === 'ended' ? this.#state.end : null;
  }

  get isClaimed(): boolean {
    return 'isClaimed' in this.#state && this.#state.isClaimed;
  }

  get isOver(): boolean {
    return isOver(this.#state);
  }

  /** Does nothing if the sandbox is no longer in `from`: it was removed, or its VM ended. */
  move<S extends ManagedState, E extends EventOf<S>>(from: S, event: E, data: TargetData<S, E>): void {
    if (this.#state !== from) return;
    this.#state = transition(from, event, data);
    if (statusOf(this.#state) !== statusOf(from)) this.#onStatus();
  }

  /** Marks the VM's copy as the sandbox from now on. */
  commit(pause: Pick<OnDisk, 'snapshotId' | 'isDiskOnly'>): void {
    const state = this.#state;
    if (state.kind === 'saving') this.move(state, 'commit', { ...state, ...pause });
    if (state.kind === 'ending') this.move(state, 'commit', { ...state, ...pause });
  }

  claim(pause: Pick<OnDisk, 'snapshotId' | 'isDiskOnly'>): void {
    const state = this.#state;
    if (!isIn(state, ['suspended', 'restoring', 'ending'])) return;
    this.move(state, 'claim', { ...state, ...pause, isClaimed: true });
  }

  release(): void {
    const state = this.#state;
    if (!isIn(state, ['suspended', 'ending'])) return;
    this.move(state, 'release', { ...state, isClaimed: false });
  }

  beginEnd(): void {
    const state = this.#state;
    if (state.kind === 'ending' || state.kind === 'ended') return;
    this.move(state, 'end', {
      supervisor: this.supervisor,
      snapshotId: this.snapshotId,
      isDiskOnly: this.isDiskOnly,
      isClaimed: this.isClaimed,
      pausedTo: pausedToOf(state),
    });
  }

  finish(event: 'vm-ended' | 'removed', end: SandboxEnd): void {
    const state = this.#state;
    if (state.kind === 'ending') this.move(state, event, { end });
    else if (event === 'vm-ended' && isIn(state, ['running', 'saving', 'paused', 'resuming'])) {
      this.move(state, event, { end });
    }
  }
}

/** A test compares `docs/lifecycle.md` with this text. */
export function managedDiagram(): string {
  return stateDiagram(['running', 'suspended'], MANAGED_TRANSITIONS);
}
