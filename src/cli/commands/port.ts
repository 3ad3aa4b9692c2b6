/** `neurovisor port`: forwards ports of a sandbox to the loopback of this machine, until Ctrl-C. */
import { sleep, systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { ControlPlane, SandboxInfo } from '../../sandbox/contract/control.ts';
import type { Cli } from '../cli.ts';
import { failureText, UsageError } from '../failure.ts';
import { sandboxId } from '../flags/pick.ts';
import { type ForwardOptions, forwardPort, type PortForward } from '../library/port-forward.ts';
import { statusOfEnd } from '../output/loss.ts';

/** What `-o json` prints once all ports listen. */
export interface PortReport {
  readonly sandbox: string;
  readonly ports: readonly Pick<PortForward, 'guestPort' | 'address' | 'localPort'>[];
}

export interface PortFlags {
  readonly over?: 'channel' | 'nic';
}

export interface WantedPort {
  readonly guestPort: number;
  /** Null: the guest's number if it is free, otherwise any. */
  readonly localPort: number | null;
}

const LIMITS = {
  portsMax: 32,
  /** Poll interval of the sandbox, milliseconds: no event reports that the daemon is gone. */
  pollMs: 2_000,
  /** Minimum time between equal messages, milliseconds: programs retry. */
  sameReasonMs: 1_000,
} as const;

/** @returns 0 after Ctrl-C; after the end of the sandbox, the status of `exec` */
export async function port(
  cli: Cli,
  control: ControlPlane,
  text: string,
  words: readonly string[],
  { over = 'channel' }: PortFlags = {},
): Promise<number> {
  const wanted = parsePorts(words);
  const id = await sandboxId(control, text);
  // The guest lasts for the sandbox's life: each connection resumes the sandbox if needed.
  const guest = await cli.unlessCancelled(control.guest(id));
  if (over === 'nic' && (await control.get(id)).network === null) {
    throw new UsageError('the sandbox has no network card', 'omit --over nic, or add a network with neurovisor update');
  }
  const onRefused = refusals(cli);
  await using open = new AsyncDisposableStack();
  const ports: PortForward[] = [];
  const connect: ForwardOptions['connect'] =
    over === 'nic' ? (to, signal) => control.openPort(id, to, signal) : (to, signal) => guest.connect(to, signal);
  for (const one of wanted) {
    ports.push(open.use(await forwardPort({ ...one, connect, onRefused })));
  }
  printReport(cli, id, ports);
  const end = await untilOver(cli, control, id);
  return end === null ? 0 : statusOfEnd(cli, end, 'port forwarding');
}

/** `3000`, `3000:8080`; local port 0: any. @throws UsageError */
export function parsePorts(words: readonly string[]): readonly WantedPort[] {
  const wanted = words.map(parsePort);
  if (wanted.length > LIMITS.portsMax) {
    throw new UsageError(`too many ports: ${wanted.length} (at most ${LIMITS.portsMax})`);
  }
  const named = wanted.flatMap(({ localPort }) => localPort ?? []);
  const twice = named.find((one, at) => named.indexOf(one) !== at);
  if (twice === undefined) return wanted;
  throw new UsageError(`local port ${twice} is given twice`, 'use a different local port for each');
}

const PORT_MAX = 65_535;

function parsePort(word: string): WantedPort {
  const match = /^(\d{1,5})(?::(\d{1,5}))?$/.exec(word);
  const guestPort = Number(match?.[1]);
  const localPort = Number(match?.[2] ?? 0);
  const isPort = guestPort >= 1 && guestPort <= PORT_MAX && localPort <= PORT_MAX;
  if (!isPort) {
    const remedy = 'use PORT or PORT:LOCAL, from 1 to 65535, for example 3000 or 3000:8080';
    throw new UsageError(`invalid port "${word}"`, remedy);
  }
  return { guestPort, localPort: localPort === 0 ? null : localPort };
}

function printReport(cli: Cli, sandbox: string, ports: readonly PortForward[]): void {
  if (cli.json) {
    const listed = ports.map(({ guestPort, address, localPort }) => {
      return { guestPort, address, localPort };
    });
    cli.printJson({ sandbox, ports: listed } satisfies PortReport);
    return;
  }
  for (const { guestPort, address, localPort } of ports) {
    cli.stdout.write(`${address}:${localPort} -> port ${guestPort} of ${sandbox}\n`);
  }
  cli.stderr.write('press Ctrl-C to stop\n');
}

/** Returns a handler that prints why connections are refused; equal reasons at most once per second. */
function refusals(cli: Cli): (error: unknown) => void {
  let last = { reason: '', atMs: 0 };
  return (error) => {
    const next = { reason: describeError(error), atMs: systemClock.now() };
    const isSame = next.reason === last.reason;
    if (cli.cancelled.aborted || (isSame && next.atMs - last.atMs < LIMITS.sameReasonMs)) return;
    last = next;
    cli.stderr.write(`${failureText(error)}\n`);
  };
}

/**
 * Resolves with the sandbox's end, or with null at Ctrl-C.
 * @throws ClientError if the daemon is gone
 */
async function untilOver(
  cli: Pick<Cli, 'cancelled'>,
  control: Pick<ControlPlane, 'get' | 'onChange'>,
  id: string,
): Promise<SandboxInfo['end']> {
  const { promise, resolve, reject } = Promise.withResolvers<SandboxInfo['end']>();
  const over = new AbortController();
  const stop = control.onChange((info) => {
    if (info.id === id && info.end !== null) resolve(info.end);
  });
  const poll = async (): Promise<void> => {
    while (!over.signal.aborted) {
      const { end } = await control.get(id);
      if (end !== null) resolve(end);
      await sleep(LIMITS.pollMs, over.signal);
    }
  };
  const interrupt = (): void => resolve(null);
  if (cli.cancelled.aborted) interrupt();
  cli.cancelled.addEventListener('abort', interrupt, { once: true });
  poll().catch(reject);
  try {
    return await promise;
  } finally {
    over.abort();
    stop();
    cli.cancelled.removeEventListener('abort', interrupt);
  }
}
