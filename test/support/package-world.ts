/** A package gateway with a sandbox's ports in front and a test index behind. */
import { mkdtemp, rm } from 'node:fs/promises';
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { errorCode } from '../../src/base/errors.ts';
import { silentLog } from '../../src/base/log.ts';
import type { PackagePolicy } from '../../src/base/request/package-policy.ts';
import {
  createPackageGateway,
  type IndexSet,
  type PackageFetch,
  type PackageGateway,
  type PackagePort,
  type PackagesOptions,
} from '../../src/egress/packages/gateway.ts';
import { startPackageIndex, type TestIndex } from './package-index.ts';

export interface Answer {
  readonly status: number;
  readonly phrase: string;
  readonly headers: IncomingMessage['headers'];
  readonly body: Buffer;
  /** True if the connection broke before the end. */
  readonly isCut: boolean;
}

export interface PackageWorld extends AsyncDisposable {
  /** Directory of the cache and the sockets. */
  readonly dir: string;
  readonly index: TestIndex;
  readonly fetches: PackageFetch[];
  /** Returns the socket of a new sandbox. */
  attach(policy: PackagePolicy | null, mayLogIn?: (host: string) => boolean): Promise<string>;
  readonly gateway: PackageGateway;
  closeGateway(): Promise<void>;
  /** Ends the sandbox of this socket. */
  close(socketPath: string): Promise<void>;
}

/** @param indexes the host's indexes. Default: only Python's, with a password */
export async function openPackageWorld(
  indexes: (index: TestIndex) => IndexSet = ({ index }) => ({ pip: { ...index, authorization: 'Basic c2VjcmV0' } }),
  more: Partial<PackagesOptions> = {},
): Promise<PackageWorld> {
  const dir = await mkdtemp(join(tmpdir(), 'nv-packages-'));
  const index = await startPackageIndex();
  const fetches: PackageFetch[] = [];
  const gateway = createPackageGateway({
    indexes: async () => indexes(index),
    cacheDir: dir,
    isPublic: () => false,
    clock: systemClock,
    log: silentLog,
    ...more,
  });
  const ports = new Map<string, PackagePort>();
  return {
    dir,
    index,
    fetches,
    gateway,
    async attach(policy, mayLogIn) {
      const socketPath = join(dir, `v_${ports.size + 1}`);
      const onFetch = (fetch: PackageFetch): void => void fetches.push(fetch);
      const sandboxId = `sandbox${ports.size + 1}`;
      ports.set(
        socketPath,
        await gateway.attach({ sandboxId, socketPath, policy, onFetch, ...(mayLogIn && { mayLogIn }) }),
      );
      return socketPath;
    },
    closeGateway: () => gateway.close(),
    close: async (socketPath) => await ports.get(socketPath)?.close(),
    async [Symbol.asyncDispose]() {
      await gateway.close();
      await index[Symbol.asyncDispose]();
      await rm(dir, { recursive: true });
    },
  };
}

export function fetchPackage(
  socketPath: string,
  path: string,
  headers: Record<string, string> = {},
  method = 'GET',
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({ socketPath, path, headers, method, agent: false }, (answer) => {
      const chunks: Buffer[] = [];
      const { statusCode: status = 0, statusMessage: phrase = '' } = answer;
      const end = (isCut: boolean): void =>
        resolve({ status, phrase, headers: answer.headers, body: Buffer.concat(chunks), isCut });
      answer.on('data', (chunk: Buffer) => chunks.push(chunk));
      answer.on('end', () => end(false));
      answer.on('error', () => end(true));
    });
    request.on('error', (error) => {
      // Cut before the head was sent.
      if (errorCode(error) !== 'ECONNRESET') reject(error);
      else resolve({ status: 0, phrase: '', headers: {}, body: Buffer.alloc(0), isCut: true });
    });
    request.end();
  });
}
