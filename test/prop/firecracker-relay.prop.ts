/**
 * Whatever both ends of Firecracker's channel send, in whatever pieces, and however they end: each gets what the other
 * sent, in order, or a prefix of it if an end broke; each sees the end of the other, and the thread holds nothing of them.
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterAll, describe, expect, it } from 'vitest';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { RelayHost } from '../../src/machine/vmm/firecracker/channel/relay-host.ts';
import { type RelayThread, startRelayThread } from '../../src/machine/vmm/firecracker/channel/relay-thread.ts';
import { dialGuest } from '../support/channel.ts';

const RUNS = 25;
const PORT = 2000;
const PATIENT = { timeout: 60_000 };
/** Of the thread itself: its epoll. */
const OWN_DESCRIPTORS = 1;

const side = fc.record({
  pieces: fc.array(fc.nat({ max: 300_000 }), { maxLength: 6 }),
  /** `breaks`: without waiting for what it gets. */
  end: fc.constantFrom('ends', 'ends', 'ends', 'breaks'),
  readsLate: fc.boolean(),
});
type Side = typeof side extends fc.Arbitrary<infer T> ? T : never;
const connection = fc.record({ byGuest: fc.boolean(), host: side, guest: side });
const limit = fc.option(fc.constant({ size: 100_000, refillPerSecond: 20_000_000 }), { nil: undefined });

/** What one end sent and got. */
interface Outcome {
  readonly sent: Buffer;
  readonly got: Buffer;
  readonly broke: boolean;
}

let seed = 0;
function pieceOf(bytes: number): Buffer {
  seed += 1;
  const block = createHash('sha256').update(String(seed)).digest();
  return Buffer.alloc(bytes, block);
}

async function play(socket: Socket, { pieces, end, readsLate }: Side): Promise<Outcome> {
  const [sent, got]: [Buffer[], Buffer[]] = [[], []];
  let broke = false;
  socket.on('error', () => {
    broke = true;
  });
  const over = new Promise<void>((resolve) => {
    socket.once('end', resolve).once('close', () => resolve());
  });
  const read = (): unknown => socket.on('data', (bytes: Buffer) => got.push(bytes)).resume();
  if (!readsLate) read();
  for (const bytes of pieces) {
    const piece = pieceOf(bytes);
    sent.push(piece);
    socket.write(piece);
    await new Promise((resolve) => setImmediate(resolve));
  }
  if (end === 'breaks') socket.destroy();
  else socket.end();
  if (readsLate) read();
  await over;
  // What it sent may still be on its way.
  if (!socket.writableFinished && !socket.destroyed) {
    await Promise.race([once(socket, 'finish'), once(socket, 'close')]).catch(() => undefined);
  }
  return { sent: Buffer.concat(sent), got: Buffer.concat(got), broke: broke || end === 'breaks' };
}

describe('ChannelRelay', () => {
  let thread: RelayThread | undefined;
  const host = new RelayHost(silentLog, systemClock, (received, ended) => {
    thread = startRelayThread(received, ended);
    return thread;
  });
  afterAll(() => host.close());

  it('relays any traffic of any connections, and keeps nothing of it', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(connection, { minLength: 1, maxLength: 8 }),
        limit,
        limit,
        async (connections, guestToHostBytes, hostToGuestBytes) => {
          const dir = mkdtempSync(join(tmpdir(), 'nv-relay-'));
          const channelPath = join(dir, 'v');
          const servers: Server[] = [];
          const listen = async (path: string): Promise<() => Promise<Socket>> => {
            const waiting: Socket[] = [];
            const server = createServer({ allowHalfOpen: true }, (socket) => {
              socket.pause();
              waiting.push(socket);
            });
            servers.push(server);
            server.listen(path);
            await once(server, 'listening');
            return async () => {
              await expect.poll(() => waiting.length, PATIENT).toBeGreaterThan(0);
              return waiting.shift() as Socket;
            };
          };
          const relay = host.open(channelPath, {
            ...(guestToHostBytes === undefined ? {} : { guestToHostBytes }),
            ...(hostToGuestBytes === undefined ? {} : { hostToGuestBytes }),
          });
          try {
            const service = await listen(`${channelPath}_${PORT}`);
            await relay.prepare();
            const firecracker = await listen(relay.innerPath);
            await relay.connect();
            const pairs: { host: Socket; guest: Socket }[] = [];
            for (const { byGuest } of connections) {
              if (byGuest) {
                const guest = connect({ path: `${relay.innerPath}_${PORT}`, allowHalfOpen: true });
                pairs.push({ guest, host: await service() });
              } else {
                const dialed = dialGuest(channelPath, PORT);
                const guest = await firecracker();
                await once(guest, 'readable');
                guest.read();
                guest.write('OK 1\n');
                const host = await dialed;
                if (host === null) throw new Error('refused');
                pairs.push({ guest, host });
              }
            }
            const played = pairs.map(async (pair, index) => {
              const plan = connections[index];
              if (plan === undefined) throw new Error('no plan');
              return await Promise.all([play(pair.host, plan.host), play(pair.guest, plan.guest)]);
            });
            let [least, broken] = [0, 0];
            for (const [one, other] of await Promise.all(played)) {
              const whole = !one.broke && !other.broke;
              broken += whole ? 0 : 1;
              for (const [from, to] of [
                [one, other],
                [other, one],
              ] as const) {
                least += to.got.length;
                if (whole) expect(to.got.length).toBe(from.sent.length);
                expect(to.got.equals(from.sent.subarray(0, to.got.length))).toBe(true);
              }
            }
            for (const { host, guest } of pairs) for (const end of [host, guest]) end.destroy();
            const stats = () => relay.stats();
            await expect
              .poll(stats, PATIENT)
              .toMatchObject({ connectionsOpened: connections.length, connectionsOpen: 0, connectionsRefused: 0 });
            const { bytesGuestToHost, bytesHostToGuest } = await stats();
            expect(bytesGuestToHost + bytesHostToGuest).toBeGreaterThanOrEqual(least);
            if (broken === 0) expect(bytesGuestToHost + bytesHostToGuest).toBe(least);
          } finally {
            await relay.close();
            for (const server of servers) server.close();
            rmSync(dir, { recursive: true, force: true });
          }
          expect(thread?.ledger.all()).toHaveLength(OWN_DESCRIPTORS);
        },
      ),
      { numRuns: RUNS },
    );
  });
});
