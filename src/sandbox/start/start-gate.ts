/** Decides for a sandbox's owner whether a VM may start, for any cause: a creation, a fork, a resume. */
import type { SandboxInfo } from '../contract/control.ts';
import { BusyError } from '../contract/errors.ts';

export interface StartAsked {
  /** The sandbox's annotations, which identify its owner. */
  readonly annotations: SandboxInfo['annotations'];
  readonly cpus: number;
  /** Maximum memory of its VM in MiB. */
  readonly memoryMib: number;
  /** Size of its disk in MiB. */
  readonly diskMib: number;
  /** Id of the sandbox, unless it gets a member of a pool. */
  readonly id: string;
  /** Id of the sandbox to resume, or whose files another VM reads; `null` for a new one. */
  readonly resumes: string | null;
}

export interface StartReservation {
  /** The VM runs as this sandbox, which counts from now on. */
  runsAs(id: string): void;
  /** Gives up the reservation: there is no VM. Does nothing after `runsAs`. */
  release(): void;
}

export interface StartGate {
  /** The host starts no new sandboxes; those that it has go on, also from a pause. */
  readonly isCordoned: boolean;
  /** Owners take turns in the queue. */
  ownerOf(annotations: SandboxInfo['annotations']): string;
  /**
   * Group whose clones may share pages of RAM with the owner's.
   * @param annotations `null` for a pool member, which any owner may get
   * @returns `null`: shares with no other VM
   */
  sharersOf(annotations: SandboxInfo['annotations'] | null): string | null;
  /**
   * Decides at once, so that only one of two requests gets the last place.
   * @throws BusyError; SandboxError `forbidden`: it is too large for its owner
   */
  admit(start: StartAsked): StartReservation;
  /** A sandbox that a killed process left runs on: it counts from now on, whatever its owner may start. */
  restores(left: Pick<StartAsked, 'annotations' | 'id' | 'memoryMib' | 'diskMib'>): void;
  /** The longest timeout of a new sandbox in milliseconds, which one without a timeout gets; `null`: any, and none. */
  timeoutMaxMs(annotations: SandboxInfo['annotations']): number | null;
  /** Whether this host's login at a registry serves the owner. */
  mayLogIn(annotations: SandboxInfo['annotations'], host: string): boolean;
  /** A sandbox that was to run will not run. */
  abandoned(id: string): void;
}

/** For a host with one owner. */
export const openGate: StartGate = {
  isCordoned: false,
  ownerOf: () => 'local',
  sharersOf: () => 'local',
  admit: () => ({ runsAs: () => undefined, release: () => undefined }),
  restores: () => undefined,
  timeoutMaxMs: () => null,
  mayLogIn: () => true,
  abandoned: () => undefined,
};

const RETRY_CORDONED_MS = 30_000;

/** @throws BusyError */
export function requireUncordoned({ isCordoned }: Pick<StartGate, 'isCordoned'>): void {
  if (!isCordoned) return;
  throw new BusyError('the host is cordoned: it starts no new sandboxes', RETRY_CORDONED_MS, {
    remedy: 'use another host, or wait until the operator runs: neurovisor uncordon',
  });
}
