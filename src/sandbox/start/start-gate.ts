/** Judges starts for the owner of a sandbox, whatever caused them: a creation, a fork, a resume. */
import type { SandboxInfo } from '../contract/control.ts';

export interface StartAsked {
  /** The sandbox's, which say whose it is. */
  readonly annotations: SandboxInfo['annotations'];
  /** The most that its VM can have, MiB. */
  readonly memoryMib: number;
  /** Id of a sandbox that is to be resumed; null: a new one. */
  readonly resumes: string | null;
}

export interface StartReservation {
  /** The VM runs, as this sandbox, which counts from now on. */
  runsAs(id: string): void;
  /** There is no VM. Does nothing after `runsAs`. */
  release(): void;
}

export interface StartGate {
  /** Owners take turns in the queue. */
  ownerOf(annotations: SandboxInfo['annotations']): string;
  /**
   * Whose clones may share pages of RAM with the owner's.
   * @param annotations null: of a member of a pool, which can become anybody's
   * @returns null: with nobody's
   */
  sharersOf(annotations: SandboxInfo['annotations'] | null): string | null;
  /**
   * Decides at once, so that of two requests for the last place one gets it.
   * @throws BusyError
   */
  admit(start: StartAsked): StartReservation;
  /** A sandbox that was to run will not. */
  abandoned(id: string): void;
}

/** For a host with one owner. */
export const openGate: StartGate = {
  ownerOf: () => 'local',
  sharersOf: () => 'local',
  admit: () => ({ runsAs: () => undefined, release: () => undefined }),
  abandoned: () => undefined,
};
