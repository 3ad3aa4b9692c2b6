import type { Clock } from '../../base/clock.ts';
import type { SpanContext } from '../../base/trace/trace.ts';
import type { Guest } from '../../machine/guest/guest.ts';
import type { GuestAccess } from '../../sandbox/contract/control.ts';
import { PORT_PROTOCOL, TUNNEL_PROTOCOL } from '../rest/upgrade.ts';
import * as answers from './answers.ts';
import { type Requests, sandboxPath } from './requests.ts';

export interface GuestParts {
  readonly clock: Clock;
  readonly trace: SpanContext | undefined;
  /** Gets each connected guest, and loses it when it is closed. */
  readonly open: Set<Guest>;
}

/** Guests whose `events` never fire; use `events(id)` of the control plane. */
export function remoteGuests(
  { transport }: Pick<Requests, 'transport'>,
  { clock, trace, open }: GuestParts,
): GuestAccess {
  const openOperation: GuestAccess['openOperation'] = async (id, signal) =>
    await transport.upgrade(`${sandboxPath(id)}/operations`, TUNNEL_PROTOCOL, signal);
  const connect = async (id: string, query?: URLSearchParams, waits?: AbortSignal): Promise<Guest> => {
    const path = `${sandboxPath(id)}/guest`;
    const info = await transport.call({ method: 'GET', path, query, answer: answers.guestInfo, signal: waits });
    // Loaded only here: most commands need no guest.
    const { connectGuest } = await import('../../machine/guest/remote.ts');
    const guest = connectGuest({ dial: (signal) => openOperation(id, signal), info, clock });
    open.add(guest);
    void guest.closed.then(() => open.delete(guest));
    return guest;
  };
  return {
    openOperation,

    async openPort(id, port, signal) {
      return await transport.upgrade(`${sandboxPath(id)}/ports/${port}`, PORT_PROTOCOL, signal);
    },

    async reader(id, signal) {
      return await connect(id, new URLSearchParams({ access: 'read' }), signal);
    },

    async guest(id) {
      const guest = await connect(id);
      if (trace === undefined) return guest;
      const { guestInTrace } = await import('../../sandbox/contract/traced-guest.ts');
      return guestInTrace(guest, trace);
    },
  };
}
