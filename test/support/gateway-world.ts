/** A gateway on loopback, whose "internet" is a map of addresses to local servers. */
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { connect, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { Gateway, type GatewayEvent, type GatewayOptions } from '../../src/egress/net/gateway/gateway.ts';
import type { GatewaySandbox } from '../../src/egress/net/gateway/sandbox.ts';
import type { Endpoint, GatewayPolicy } from '../../src/egress/net/policy/judge.ts';
import { Pins } from '../../src/egress/net/policy/pins.ts';

export const HOST = '127.0.0.1';

export interface GatewayWorld {
  readonly gateway: Gateway;
  readonly port: number;
  readonly pins: Pins;
  readonly events: GatewayEvent[];
  /** Addresses that the gateway dialled, as `address:port`. */
  readonly dialled: string[];
  /** Where the next connections "were redirected from". */
  destination: Endpoint | undefined;
  policy: GatewayPolicy;
  /** `address:port` → local port. */
  readonly internet: Map<string, number>;
  reasons(): string[];
  close(): Promise<void>;
}

export type WorldOptions = Partial<GatewayOptions> &
  Pick<GatewaySandbox, 'secrets' | 'budgets'> & { readonly id?: string };

export async function gatewayWorld(
  policy: GatewayPolicy,
  destination: Endpoint,
  options: WorldOptions = {},
): Promise<GatewayWorld> {
  const pins = new Pins(systemClock);
  const events: GatewayEvent[] = [];
  const dialled: string[] = [];
  const internet = new Map<string, number>();
  const { secrets, budgets, id = 'sb-1', ...rest } = options;
  const sandbox = {
    id,
    policy: () => world.policy,
    pins,
    ...(secrets === undefined ? {} : { secrets }),
    ...(budgets === undefined ? {} : { budgets }),
  };
  const gateway = new Gateway({
    address: HOST,
    port: 0,
    findSandbox: (address) => (address === HOST ? sandbox : undefined),
    originalDestination: () => world.destination,
    dial: ({ address, port }) => {
      dialled.push(`${address}:${port}`);
      // Port 1 accepts no connections.
      const local = internet.get(`${address}:${port}`) ?? 1;
      return connect({ host: HOST, port: local, allowHalfOpen: true });
    },
    onEvent: (event) => events.push(event),
    ...rest,
  });
  const port = await gateway.listen();
  const world: GatewayWorld = {
    gateway,
    port,
    pins,
    events,
    dialled,
    destination,
    policy,
    internet,
    reasons: () => events.map(({ outcome }) => outcome),
    close: () => gateway.close(),
  };
  return world;
}

export async function listen(server: Server): Promise<number> {
  await new Promise<void>((resolve) => server.listen(0, HOST, resolve));
  const address = server.address();
  if (typeof address !== 'object' || address === null) throw new Error('no port');
  return address.port;
}

/** A separate key and certificate for a name. */
export function certificate(name = 'a.example'): { key: string; cert: string } {
  const folder = mkdtempSync(join(tmpdir(), 'nv-cert-'));
  try {
    const [key, cert] = [join(folder, 'key.pem'), join(folder, 'cert.pem')];
    const subject = ['-subj', `/CN=${name}`, '-addext', `subjectAltName=DNS:${name}`];
    const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];
    const files = ['-keyout', key, '-out', cert, '-days', '2'];
    execFileSync('openssl', ['req', '-x509', ...kind, ...files, ...subject], { stdio: 'pipe' });
    return { key: readFileSync(key, 'utf8'), cert: readFileSync(cert, 'utf8') };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Runs a client to its end. */
export function command(file: string, args: readonly string[], input = ''): Promise<{ code: number; out: string }> {
  return new Promise((resolve) => {
    const child = execFile(file, args, (error, stdout, stderr) => {
      const code = error === null ? 0 : Number(error.code ?? -1);
      resolve({ code, out: stdout + stderr });
    });
    child.stdin?.on('error', () => child.stdin?.destroy());
    child.stdin?.end(input);
  });
}

/** Sends pieces one after another, and reads to the end of the connection. */
export async function talk(port: number, pieces: readonly (string | Uint8Array)[], isEnded = false): Promise<Buffer> {
  const socket: Socket = connect({ host: HOST, port, allowHalfOpen: true, noDelay: true });
  const received: Buffer[] = [];
  const closed = new Promise<void>((resolve) => {
    socket.on('error', () => socket.destroy());
    socket.on('data', (bytes) => received.push(bytes));
    socket.on('end', () => socket.end());
    socket.on('close', () => resolve());
  });
  for (const piece of pieces) {
    if (socket.destroyed) break;
    await new Promise<void>((resolve) => {
      socket.write(typeof piece === 'string' ? Buffer.from(piece, 'latin1') : piece, () => resolve());
    });
  }
  if (isEnded) socket.end();
  await closed;
  return Buffer.concat(received);
}
