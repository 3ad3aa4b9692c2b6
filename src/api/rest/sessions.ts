/**
 * Sessions: sandboxes that end with their client. A session lasts as long as one connection of the client, so it ends
 * with the client's process, in any case.
 *
 *     GET /v1/session ──► event stream with the id ······· closed ──► remove what was created in it
 *     POST /v1/sandboxes, NeuroVisor-Session: ID ──► create ──► keep
 */
import { randomBytes } from 'node:crypto';
import { describeError, errorCode } from '../../base/errors.ts';
import { ignore } from '../../base/ignore.ts';
import type { Log } from '../../base/log.ts';
import type { ControlPlane } from '../../sandbox/contract/control.ts';
import { ApiError } from './errors.ts';
import { API_LIMITS } from './limits.ts';
import { TenantSlots } from './slots.ts';

/** Knowing the id is enough to add sandboxes to the session. */
const ID_BYTES = 16;

/** Of all tenants. */
export const sessionSlots = (): TenantSlots =>
  new TenantSlots('sessions', API_LIMITS.sessionsMax, API_LIMITS.sessionShares);

/** The sessions of one tenant, or of the operator. */
export class Sessions {
  readonly #control: ControlPlane;
  readonly #log: Log;
  readonly #takeSlot: () => () => void;
  readonly #open = new Map<string, Session>();

  constructor(control: ControlPlane, log: Log, takeSlot: () => () => void) {
    this.#control = control;
    this.#log = log;
    this.#takeSlot = takeSlot;
  }

  /** @throws BusyError */
  open(): Session {
    const giveBack = this.#takeSlot();
    const id = randomBytes(ID_BYTES).toString('hex');
    const why = 'its session is closed';
    const session = new Session(id, (sandbox) => void removeAbandoned(this.#control, this.#log, sandbox, why));
    this.#open.set(id, session);
    const stopListening = this.#control.onChange((info) => {
      if (info.status === 'ended') session.forget(info.id);
    });
    session.closed.addEventListener('abort', () => {
      stopListening();
      this.#open.delete(id);
      giveBack();
    });
    return session;
  }

  /** @throws ApiError `session_closed` */
  get(id: string): Session {
    const session = this.#open.get(id);
    if (session !== undefined) return session;
    throw new ApiError('session_closed', 'the session is closed, or was never opened', {
      remedy: 'open one with GET /v1/session, and keep its connection open',
    });
  }
}

export class Session {
  readonly id: string;
  readonly #remove: (sandbox: string) => void;
  readonly #closed = new AbortController();
  readonly #sandboxes = new Set<string>();

  constructor(id: string, remove: (sandbox: string) => void) {
    this.id = id;
    this.#remove = remove;
  }

  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** Keeps the sandbox until the session is closed; removes it at once if the session is already closed. */
  keep(sandbox: string): void {
    if (this.closed.aborted) this.#remove(sandbox);
    else this.#sandboxes.add(sandbox);
  }

  forget(sandbox: string): void {
    this.#sandboxes.delete(sandbox);
  }

  close(): void {
    this.#closed.abort(new Error('the session is closed'));
    for (const sandbox of this.#sandboxes) this.#remove(sandbox);
    this.#sandboxes.clear();
  }
}

/** Removes a sandbox that no client owns. Never rejects. */
export async function removeAbandoned(control: ControlPlane, log: Log, sandbox: string, why: string): Promise<void> {
  log.info(`a sandbox is removed: ${why}`, { sandbox });
  try {
    await control.remove(sandbox);
  } catch (error) {
    const code = errorCode(error);
    if (code === 'gone' || code === 'not_found') {
      ignore(error, 'the sandbox has ended');
      return;
    }
    log.warn('a sandbox without a client could not be removed', { sandbox, reason: describeError(error) });
  }
}
