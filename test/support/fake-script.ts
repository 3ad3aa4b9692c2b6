/** The points where a test may interfere with a fake world: before or after each phase. */
import type { FakeVm } from './fake-vm.ts';

export type Phase =
  | 'keep-sealed'
  | 'image'
  | 'template'
  | 'named-template'
  /** Phases of a start. */
  | 'workspace'
  | 'overlay'
  | 'listen'
  | 'bridge'
  | 'network'
  | 'lease'
  | 'fill-memory'
  | 'map-memory'
  | 'copy-disk'
  | 'start'
  | 'end-left'
  | 'hello'
  /** Requests to a guest. */
  | 'update'
  | 'python'
  | 'settle'
  /** Requests to a VM. */
  | 'pause'
  | 'resume'
  | 'plug'
  | 'unplug'
  | 'plug-nic'
  | 'unplug-nic'
  | 'withdraw-nic'
  | 'return-nic'
  | 'balloon'
  | 'save-state'
  | 'own-bytes'
  | 'save-changes'
  | 'write-rest'
  | 'kill'
  /** Phases of a save. */
  | 'keep-memory'
  | 'keep-disk'
  | 'commit'
  | 'put';

type Interference = (vm: FakeVm | undefined) => Promise<void> | void;

/** A caller that is held at a phase until it is released. */
export interface Held {
  /** Resolves with the phase's VM, if any, once the phase is reached. */
  readonly reached: Promise<FakeVm | undefined>;
  /** Continues, or fails if an error is given. */
  release(error?: Error): void;
}

export class Script {
  readonly #planned = new Map<Phase, Interference[]>();
  /** Delays every phase, planned or not. */
  onStep: ((phase: Phase) => Promise<void>) | undefined;

  /** Interferes with the next caller that reaches the phase. Several interferences are used up in order. */
  next(phase: Phase, interference: Interference): void {
    const planned = this.#planned.get(phase) ?? [];
    this.#planned.set(phase, [...planned, interference]);
  }

  fail(phase: Phase, error: Error = new Error(`${phase} failed`)): void {
    this.next(phase, () => Promise.reject(error));
  }

  die(phase: Phase): void {
    this.next(phase, (vm) => vm?.die());
  }

  hold(phase: Phase): Held {
    return this.holdOf(phase, undefined);
  }

  /** @param one the VM to hold, even if another arrives first; undefined: the next one */
  holdOf(phase: Phase, one: FakeVm | undefined): Held {
    const reached = Promise.withResolvers<FakeVm | undefined>();
    const released = Promise.withResolvers<void>();
    const interference: Interference = async (vm) => {
      if (one !== undefined && vm !== one) {
        this.next(phase, interference);
        return;
      }
      reached.resolve(vm);
      await released.promise;
    };
    this.next(phase, interference);
    const release = (error?: Error): void => {
      if (error === undefined) released.resolve();
      else released.reject(error);
    };
    return { reached: reached.promise, release };
  }

  /** Planned interferences that have not happened: the test has not tested them. */
  get unused(): readonly Phase[] {
    return [...this.#planned].flatMap(([phase, { length }]) => (length > 0 ? [phase] : []));
  }

  forget(): void {
    this.#planned.clear();
  }

  async step(phase: Phase, vm?: FakeVm): Promise<void> {
    await this.onStep?.(phase);
    const [interference, ...later] = this.#planned.get(phase) ?? [];
    this.#planned.set(phase, later);
    await interference?.(vm);
  }
}
