/**
 * The engine's process (io): `node main.ts CONFIG`, started by `process.ts`. Opens its socket, loads the model, and
 * exits when its standard input closes, so that it never outlives its parent.
 */
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { chmod, rm } from 'node:fs/promises';
import type { Server } from 'node:http';
import { systemClock } from '../../base/clock.ts';
import { describeError } from '../../base/errors.ts';
import type { Log } from '../../base/log.ts';
import type { ChildConfig, ChildEvent } from './child-protocol.ts';
import { EngineError, toEngineError } from './errors.ts';
import { loadLlama } from './llama.ts';
import { createEngineServer } from './server.ts';
import { Service } from './service.ts';

const SOCKET_MODE = 0o600;

const stderrLog = (level: string) => (message: string) => {
  process.stderr.write(`${level}: ${message}\n`);
};
const log: Log = {
  error: stderrLog('error'),
  warn: stderrLog('warn'),
  info: stderrLog('info'),
  debug: () => undefined,
};

function send(event: ChildEvent): void {
  process.stdout.write(`${JSON.stringify(event)}\n`);
}

async function listen(
  server: Server,
  where: { path: string } | { fd: number } | { port: number; host: string },
): Promise<void> {
  try {
    server.listen(where);
    await once(server, 'listening');
  } catch (error) {
    throw new EngineError('listen_failed', `can't listen on ${JSON.stringify(where)}`, { cause: error });
  }
}

async function listenAt(server: Server, socket: ChildConfig['socket']): Promise<void> {
  if (typeof socket === 'number') return await listen(server, { fd: socket });
  // Left by a killed engine; no other process uses the path.
  await rm(socket, { force: true });
  await listen(server, { path: socket });
  await chmod(socket, SOCKET_MODE);
}

async function main(config: ChildConfig): Promise<void> {
  const { promise: service, resolve, reject } = Promise.withResolvers<Service>();
  const options = { modelId: config.modelId, service, log, wall: systemClock.wall };
  const server = createEngineServer(options);
  await listenAt(server, config.socket);
  let port: number | null = null;
  if (config.port !== null) {
    const development = createEngineServer(options);
    await listen(development, { port: config.port, host: '127.0.0.1' });
    const address = development.address();
    port = typeof address === 'object' ? (address?.port ?? null) : null;
  }
  send({ type: 'listening', port });
  try {
    const backend = await loadLlama(config, (message) => send({ type: 'notice', message }));
    resolve(new Service(backend));
    send({ type: 'ready', info: { ...backend.info, loadMs: Math.round(performance.now()) } });
  } catch (error) {
    reject(error);
    throw error;
  }
}

const config = JSON.parse(process.argv[2] ?? '') as ChildConfig;

/**
 * Replaces `process.exit`, which waits for native threads that may be loading a model for minutes. As the first
 * process of a jail it survives its own signal; there the parent kills it.
 */
function exitNow(): void {
  if (typeof config.socket === 'string') rmSync(config.socket, { force: true });
  process.kill(process.pid, 'SIGKILL');
  process.exit();
}

// Terminals and service managers signal the whole process group, but the parent decides when this process ends: it
// holds the other end of stdin, and never writes.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => undefined);
process.stdin.on('end', exitNow);
process.stdin.on('error', exitNow);
process.stdin.resume();

main(config).catch((error: unknown) => {
  const failure = toEngineError(error);
  const event: ChildEvent = {
    type: 'failed',
    code: failure.code,
    message: describeError(failure),
    remedy: failure.remedy ?? null,
  };
  process.stdout.write(`${JSON.stringify(event)}\n`, () => process.exit(1));
});
