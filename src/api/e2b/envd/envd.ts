/** Requests for E2B's envd: checks the token or signature, and dispatches to the service. */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { describeError, errorCode } from '../../../base/errors.ts';
import type { SandboxInfo } from '../../../sandbox/contract/control.ts';
import { BodyTurns } from '../../rest/body.ts';
import { isGuestError } from '../../rest/errors.ts';
import { clientGone, whenClosed } from '../../rest/route.ts';
import { TenantSlots } from '../../rest/slots.ts';
import { equalInConstantTime } from '../../tenants/callers.ts';
import { ownerOf } from '../../tenants/owner.ts';
import { E2bError, errorReply, INTERNAL } from '../errors.ts';
import { keptOf } from '../kept.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts } from '../parts.ts';
import { fileSignature, type SignedFile } from '../tokens.ts';
import { type Call, userOf } from './call.ts';
import { allowPages } from './cors.ts';
import { isUnknownUser } from './failures.ts';
import { download, upload } from './files.ts';
import { FilesystemService } from './filesystem.ts';
import { ProcessService } from './process.ts';
import { Programs } from './programs.ts';
import { answerRpc, type Rpc } from './service.ts';
import { Watchers } from './watchers.ts';

/**
 * Errors of an answer whose client left before it began, while the guest read or while it was written, or by a reset.
 */
const OF_CLOSED_STREAM =
  /^(?:ERR_STREAM_(?:PREMATURE_CLOSE|UNABLE_TO_PIPE|DESTROYED|WRITE_AFTER_END)|ECONNRESET|EPIPE|cancelled)$/;

export class Envd {
  readonly #parts: E2bParts;
  readonly #rpcs: ReadonlyMap<string, Rpc>;
  readonly #programs: Programs;
  readonly #watchers: Watchers;
  readonly #turns = new Map<string | null, BodyTurns>();
  readonly #slots = new TenantSlots('calls', E2B_LIMITS.callsMax, E2B_LIMITS.callShares, E2B_LIMITS.callsPerSandboxMax);

  constructor(parts: E2bParts) {
    this.#parts = parts;
    this.#programs = new Programs(parts.clock);
    this.#watchers = new Watchers(parts.clock);
    this.#rpcs = rpcsOf(new ProcessService(this.#programs, parts.clock), new FilesystemService(this.#watchers));
  }

  /** Call when the sandbox has ended. */
  forget(id: string): void {
    this.#programs.forget(id);
    this.#watchers.forget(id);
  }

  /** Answers a request for a running sandbox; never rejects. @param refuse answers that there is no such sandbox */
  async answer(
    request: IncomingMessage,
    response: ServerResponse,
    info: SandboxInfo,
    refuse: () => void,
  ): Promise<void> {
    const { control, log } = this.#parts;
    const { id } = info;
    const gone = clientGone({ raw: response });
    const call: Call = {
      request,
      response,
      id,
      template: keptOf(info).template,
      guest: () => control.guest(id),
      reader: () => control.reader(id, gone),
      ended: () => hasEnded(this.#parts, id),
      user: userOf(request),
    };
    allowPages(response);
    try {
      await this.#answer(call, ownerOf(info));
    } catch (error) {
      if (error instanceof GuestAway) {
        refuse();
        return;
      }
      // No client waits for the answer any more.
      if (gone.aborted && OF_CLOSED_STREAM.test(errorCode(error) ?? '')) return;
      const known = errorReply(isUnknownUser(error) ? new E2bError(401, error.message, { cause: error }) : error);
      if (known === null) {
        // Its query may hold a signature, which grants access.
        const [path = ''] = (request.url ?? '').split('?', 1);
        log.error(`envd ${path}`, { error: describeError(error) });
      }
      const { status, headers, body } = known ?? INTERNAL;
      if (response.headersSent) response.destroy();
      else {
        response.writeHead(status, { ...headers, 'content-type': 'application/json' });
        response.end(JSON.stringify(body));
      }
    }
  }

  /** @param tenant the sandbox's owner */
  async #answer(call: Call, tenant: string | null): Promise<void> {
    const { method = '', url = '/' } = call.request;
    const [path = ''] = url.split('?', 1);
    if (method === 'GET' && path === '/health') {
      call.response.writeHead(204).end();
      return;
    }
    this.#authorize(call, path);
    const isFile = path === '/files' && (method === 'GET' || method === 'POST');
    const isRead = method === 'GET' || READS.has(path);
    const rpc = method === 'POST' ? this.#rpcs.get(path) : undefined;
    if (!isFile && rpc === undefined) {
      throw new E2bError(404, `no route ${method} ${path.slice(0, 200)}`);
    }
    whenClosed(call.response, this.#slots.take(tenant, call.id));
    // Before any part of the answer is sent.
    await guestOf(isRead ? call.reader : call.guest);
    if (rpc !== undefined) await answerRpc(rpc, call, this.#parts, this.#turnsOf(tenant));
    else if (method === 'GET') await download(call);
    else await upload(call, this.#parts);
  }

  #turnsOf(tenant: string | null): BodyTurns {
    const turns = this.#turns.get(tenant) ?? new BodyTurns(this.#parts.clock);
    this.#turns.set(tenant, turns);
    return turns;
  }

  /** @throws E2bError 401 */
  #authorize({ request, id }: Call, path: string): void {
    const { tokens, clock } = this.#parts;
    const token = tokens.envd(id);
    const given = request.headers['x-access-token'];
    if (typeof given === 'string') {
      if (equalInConstantTime(given, token)) return;
      throw new E2bError(401, 'the access token is not valid');
    }
    if (path !== '/files') throw new E2bError(401, 'the header X-Access-Token is missing');
    const signed = signedFile(request);
    if (signed === null) throw new E2bError(401, 'missing signature query parameter');
    if (!equalInConstantTime(signed.signature, fileSignature(signed, token))) {
      throw new E2bError(401, 'invalid signature');
    }
    if (signed.expiration === null) return;
    if (!/^\d{1,12}$/.test(signed.expiration)) {
      throw new E2bError(400, 'signature_expiration: expected a whole number of seconds since 1970');
    }
    if (Number(signed.expiration) * 1000 < clock.wall()) {
      throw new E2bError(401, 'signature is already expired');
    }
  }
}

/** After the request arrived, the sandbox ended or was paused without automatic resume. */
class GuestAway extends Error {}

const READS: ReadonlySet<string> = new Set(['/filesystem.Filesystem/Stat', '/filesystem.Filesystem/ListDir']);

const AWAY: ReadonlySet<unknown> = new Set(['not_found', 'gone', 'not_ready']);

/** @throws GuestAway; errors of resuming */
async function guestOf(access: () => Promise<unknown>): Promise<void> {
  try {
    await access();
  } catch (error) {
    if (!isGuestError(error) && AWAY.has(errorCode(error))) throw new GuestAway();
    throw error;
  }
}

/** Waits for the end of a sandbox that is about to end, for at most `E2B_LIMITS.endMsMax`. */
async function hasEnded({ control, clock }: Pick<E2bParts, 'control' | 'clock'>, id: string): Promise<boolean> {
  const end = Promise.withResolvers<boolean>();
  // Before the look, so that no end is missed.
  const stopListening = control.onChange((info) => {
    if (info.id === id && info.status === 'ended') end.resolve(true);
  });
  const stopTimer = clock.after(E2B_LIMITS.endMsMax, () => end.resolve(false));
  try {
    const { status } = await control.get(id);
    return status === 'ending' ? await end.promise : status === 'ended';
  } catch (error) {
    return AWAY.has(errorCode(error));
  } finally {
    stopTimer();
    stopListening();
  }
}

/** The file that the request's signature is for; `null` without a signature. */
export function signedFile(
  request: Pick<IncomingMessage, 'method' | 'url'>,
): (SignedFile & { readonly signature: string }) | null {
  const query = new URLSearchParams((request.url ?? '').split('?', 2)[1] ?? '');
  const signature = query.get('signature');
  if (signature === null) return null;
  return {
    signature,
    path: query.get('path') ?? '',
    operation: request.method === 'POST' ? 'write' : 'read',
    user: query.get('username') ?? '',
    expiration: query.get('signature_expiration'),
  };
}

function rpcsOf(process: ProcessService, files: FilesystemService): ReadonlyMap<string, Rpc> {
  const unary = (run: Extract<Rpc, { kind: 'unary' }>['run']): Rpc => ({ kind: 'unary', run });
  const server = (run: Extract<Rpc, { kind: 'server' }>['run']): Rpc => ({ kind: 'server', run });
  return new Map<string, Rpc>([
    ['/process.Process/List', unary((call) => process.list(call))],
    ['/process.Process/Start', server((...args) => process.start(...args))],
    ['/process.Process/Connect', server((...args) => process.connect(...args))],
    ['/process.Process/Update', unary((...args) => process.update(...args))],
    ['/process.Process/SendInput', unary((...args) => process.sendInput(...args))],
    ['/process.Process/StreamInput', { kind: 'client', run: (...args) => process.streamInput(...args) }],
    ['/process.Process/CloseStdin', unary((...args) => process.closeStdin(...args))],
    ['/process.Process/SendSignal', unary((...args) => process.sendSignal(...args))],
    ['/filesystem.Filesystem/Stat', unary((...args) => files.stat(...args))],
    ['/filesystem.Filesystem/MakeDir', unary((...args) => files.makeDir(...args))],
    ['/filesystem.Filesystem/Move', unary((...args) => files.move(...args))],
    ['/filesystem.Filesystem/ListDir', unary((...args) => files.listDir(...args))],
    ['/filesystem.Filesystem/Remove', unary((...args) => files.remove(...args))],
    ['/filesystem.Filesystem/CreateWatcher', unary((...args) => files.createWatcher(...args))],
    ['/filesystem.Filesystem/GetWatcherEvents', unary((...args) => files.getWatcherEvents(...args))],
    ['/filesystem.Filesystem/RemoveWatcher', unary((...args) => files.removeWatcher(...args))],
    ['/filesystem.Filesystem/WatchDir', server((...args) => files.watchDir(...args))],
  ]);
}
