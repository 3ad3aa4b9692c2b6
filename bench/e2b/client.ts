/** The part of E2B's client that a benchmark needs, without its start and its retries: every request is one of ours. */

import { createE2bServer } from '../../src/api/e2b/server.ts';
import { accessTokens } from '../../src/api/e2b/tokens.ts';
import { createApiServer } from '../../src/api/rest/server.ts';
import { operatorOnly } from '../../src/api/tenants/callers.ts';
import { systemClock } from '../../src/base/clock.ts';
import type { ControlPlane } from '../../src/sandbox/contract/control.ts';
import type { BenchContext } from '../benchmark.ts';

export interface E2bSandbox {
  readonly id: string;
  readonly token: string;
}

export interface E2bClient extends AsyncDisposable {
  create(template: string): Promise<E2bSandbox>;
  remove(sandbox: E2bSandbox): Promise<void>;
  /** Standard output of a shell command, once it has ended. */
  run(sandbox: E2bSandbox, command: string): Promise<string>;
  upload(sandbox: E2bSandbox, path: string, content: Blob): Promise<void>;
  /** Returns the number of bytes. */
  download(sandbox: E2bSandbox, path: string): Promise<number>;
}

const ENVD = '49983';
const FRAME_HEADER_BYTES = 5;

/** The server at its own port, and a client for it. */
export async function openE2bClient(
  control: ControlPlane,
  { log, signal }: Pick<BenchContext, 'log' | 'signal'>,
): Promise<E2bClient> {
  const apiKey = 'e2b_0';
  const callers = operatorOnly(control, apiKey);
  const e2b = await createE2bServer({
    control,
    log,
    clock: systemClock,
    tokens: accessTokens(Buffer.alloc(32)),
    callers,
    domain: () => 'localhost',
  });
  const api = await createApiServer({ control, log, apiKey, callers, beside: e2b });
  const url = `http://127.0.0.1:${await api.listen({ port: 0 })}`;
  const ask = async (path: string, init: RequestInit): Promise<Response> => {
    const answer = await fetch(`${url}${path}`, { ...init, signal });
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    return answer;
  };
  const inSandbox = ({ id, token }: E2bSandbox, type: string): Record<string, string> => ({
    'e2b-sandbox-id': id,
    'e2b-sandbox-port': ENVD,
    'x-access-token': token,
    'content-type': type,
  });
  const json = { 'x-api-key': apiKey, 'content-type': 'application/json' };
  return {
    create: async (templateID) => {
      const body = JSON.stringify({ templateID, allow_internet_access: false });
      const answer = await ask('/v2/sandboxes', { method: 'POST', headers: json, body });
      const made = (await answer.json()) as { sandboxID: string; envdAccessToken: string };
      return { id: made.sandboxID, token: made.envdAccessToken };
    },
    remove: async ({ id }) => {
      await ask(`/sandboxes/${id}`, { method: 'DELETE', headers: { 'x-api-key': apiKey } });
    },
    run: async (sandbox, command) => {
      const process = { cmd: '/bin/bash', args: ['-l', '-c', command] };
      const answer = await ask('/process.Process/Start', {
        method: 'POST',
        headers: inSandbox(sandbox, 'application/connect+json'),
        body: framed({ process, stdin: false }),
      });
      return outputOf(Buffer.from(await answer.arrayBuffer()));
    },
    upload: async (sandbox, path, content) => {
      await ask(`/files?path=${encodeURIComponent(path)}`, {
        method: 'POST',
        headers: inSandbox(sandbox, 'application/octet-stream'),
        body: content,
      });
    },
    download: async (sandbox, path) => {
      const headers = inSandbox(sandbox, 'application/octet-stream');
      const answer = await ask(`/files?path=${encodeURIComponent(path)}`, { headers });
      let bytes = 0;
      for await (const part of answer.body ?? []) bytes += part.length;
      return bytes;
    },
    async [Symbol.asyncDispose]() {
      await api.close();
      await e2b[Symbol.asyncDispose]();
    },
  };
}

function framed(message: unknown): Buffer<ArrayBuffer> {
  const text = Buffer.from(JSON.stringify(message));
  const frame = Buffer.alloc(FRAME_HEADER_BYTES + text.length);
  frame.writeUInt32BE(text.length, 1);
  text.copy(frame, FRAME_HEADER_BYTES);
  return frame;
}

/** @throws Error if the program did not exit with 0 */
function outputOf(frames: Buffer): string {
  interface Message {
    readonly event?: { readonly data?: { readonly stdout?: string }; readonly end?: { readonly exitCode?: number } };
  }
  let text = '';
  let exitCode: number | undefined;
  for (let at = 0; at + FRAME_HEADER_BYTES <= frames.length; ) {
    const end = at + FRAME_HEADER_BYTES + frames.readUInt32BE(at + 1);
    const message = frames.subarray(at + FRAME_HEADER_BYTES, end).toString();
    const { event } = JSON.parse(message) as Message;
    text += Buffer.from(event?.data?.stdout ?? '', 'base64').toString();
    if (event?.end !== undefined) exitCode = event.end.exitCode ?? 0;
    at = end;
  }
  if (exitCode !== 0) throw new Error(`the program ended with ${exitCode ?? 'an error'}`);
  return text;
}
