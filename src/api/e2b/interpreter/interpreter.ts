/**
 * The code interpreter of a sandbox: a server in the guest (`environments/code-interpreter`), which started before the
 * sandbox had its identity. So before its first request, a program that has the sandbox's variables passes them to the
 * server.
 */
import type { IncomingMessage } from 'node:http';
import { describeError } from '../../../base/errors.ts';
import { ignore } from '../../../base/ignore.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { equalInConstantTime } from '../../tenants/callers.ts';
import { keptOf, marksOf } from '../kept.ts';
import type { E2bParts } from '../parts.ts';

/** Directory in the guest. Exists only if the server does. */
const DIR = '/var/lib/code-interpreter';
/** Written beside it first, since the server may read the file at any time. */
const TELL = `[ ! -d ${DIR} ] || { cp /proc/self/environ ${DIR}/next && mv -f ${DIR}/next ${DIR}/environ; }`;
const TELL_MS_MAX = 30_000;
/** Limit of remembered sandboxes; a forgotten one only gets its variables again. */
const TOLD_MAX = 10_000;

type TokenParts = Pick<E2bParts, 'tokens'>;
type Told = Pick<SandboxInfo, 'id' | 'annotations' | 'template' | 'network'>;

/**
 * True if a request has one of the sandbox's tokens. A caller of this port can run code, so unlike other ports it is
 * never public. Clients send envd's token with executions, and the traffic token with every request.
 */
export function mayUseInterpreter(
  { headers, method, url }: Pick<IncomingMessage, 'headers' | 'method' | 'url'>,
  id: string,
  { tokens }: TokenParts,
): boolean {
  if (method === 'GET' && url === '/health') return true;
  const { 'x-access-token': envd, 'e2b-traffic-access-token': traffic } = headers;
  const hasEnvd = typeof envd === 'string' && equalInConstantTime(envd, tokens.envd(id));
  return hasEnvd || (typeof traffic === 'string' && equalInConstantTime(traffic, tokens.traffic(id)));
}

export class Interpreters {
  readonly #control: E2bParts['control'];
  readonly #told = new Map<string, Promise<void>>();

  constructor({ control }: Pick<E2bParts, 'control'>) {
    this.#control = control;
  }

  /** Resolves when the server of the sandbox has its variables, or if there is no server. Never rejects. */
  async prepare(info: Told): Promise<void> {
    const { id } = info;
    let telling = this.#told.get(id);
    if (telling === undefined) {
      telling = this.#tell(info);
      this.#told.set(id, telling);
      for (const oldest of this.#told.keys()) {
        if (this.#told.size <= TOLD_MAX) break;
        this.#told.delete(oldest);
      }
    }
    await telling;
  }

  /** Call when the sandbox has ended. */
  forget(id: string): void {
    this.#told.delete(id);
  }

  async #tell(info: Told): Promise<void> {
    const { id } = info;
    try {
      const guest = await this.#control.guest(id);
      const argv = ['sh', '-c', TELL];
      const env = marksOf(id, keptOf(info).template);
      const program = await guest.exec({ argv, env, stdin: false, timeoutMs: TELL_MS_MAX });
      program.stdout.resume();
      program.stderr.resume();
      const { exitCode } = await program.exit;
      if (exitCode !== 0) this.#told.delete(id);
    } catch (error) {
      this.#told.delete(id);
      ignore(error, `the request itself says what is wrong (${describeError(error)})`);
    }
  }
}
