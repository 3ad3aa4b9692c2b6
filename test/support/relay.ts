/** The relay's thread for tests that need their own clock: its loop on the event loop of the test. */
import type { Clock } from '../../src/base/clock.ts';
import { FdLedger } from '../../src/machine/vmm/firecracker/channel/fd-ledger.ts';
import { RelayLoop } from '../../src/machine/vmm/firecracker/channel/relay-loop.ts';
import type { StartRelayThread } from '../../src/machine/vmm/firecracker/channel/relay-thread.ts';

export function relayOnThisThread(clock: Clock): StartRelayThread {
  return (received, ended) => {
    const ledger = new FdLedger();
    const loop = new RelayLoop({ clock, ledger, report: received });
    let isStopped = false;
    const pump = (): void => {
      if (isStopped) return;
      loop.turn(0);
      if (loop.isReady) setImmediate(pump);
      else setTimeout(pump, 1);
    };
    pump();
    return {
      ledger,
      keepAlive: () => undefined,
      post(command) {
        if (command.kind !== 'stop') {
          loop.obey(command);
          return;
        }
        isStopped = true;
        loop.close();
        ended(null);
      },
    };
  };
}
