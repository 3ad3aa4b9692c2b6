/**
 * Tokens of a sandbox, derived from its id and a key of this home: nothing is stored, and a sandbox that another
 * daemon of the home resumes has the same ones. Also signatures of file URLs.
 */
import { createHash, createHmac } from 'node:crypto';

export interface AccessTokens {
  /** For files and programs. */
  envd(id: string): string;
  /** For the ports of a sandbox without public traffic. */
  traffic(id: string): string;
  /** For the files of a volume, by the volume's id, as long as it exists. */
  volume(id: string): string;
}

/** @param key secret, at least 32 bytes */
export function accessTokens(key: Uint8Array): AccessTokens {
  const derive = (purpose: string, id: string): string =>
    createHmac('sha256', key).update(`${purpose}:${id}`).digest('hex');
  return {
    envd: (id) => derive('envd', id),
    traffic: (id) => derive('traffic', id),
    volume: (id) => derive('volume', id),
  };
}

export interface SignedFile {
  /** As written in the query. */
  readonly path: string;
  readonly operation: 'read' | 'write';
  /** Empty if none is named. */
  readonly user: string;
  /** Seconds since 1970; `null` for no expiration. */
  readonly expiration: string | null;
}

export function fileSignature(file: SignedFile, envdToken: string): string {
  const { path, operation, user, expiration } = file;
  const parts = [path, operation, user, envdToken, ...(expiration === null ? [] : [expiration])];
  const digest = createHash('sha256').update(parts.join(':')).digest('base64');
  return `v1_${digest.replace(/=+$/, '')}`;
}
