/**
 * Creates sandboxes for E2B's clients. A creation answers within 50 s, since clients give up after 60: if a template
 * must be built first, the build continues and the client is asked to retry.
 */
import { ignore } from '../../../base/ignore.ts';
import { orAborted, timeLimit } from '../../../base/time-limit.ts';
import type { CreateRequest, SandboxInfo } from '../../../sandbox/contract/control.ts';
import { SandboxError } from '../../../sandbox/contract/errors.ts';
import { ENVD_PORT, INTERPRETER_PORT } from '../dispatch.ts';
import { E2bError } from '../errors.ts';
import { formatKept, type Kept } from '../kept.ts';
import { E2B_LIMITS } from '../limits.ts';
import type { E2bParts, TemplateSource } from '../parts.ts';
import { hasRules, networkOptions } from './network.ts';
import { requestHeadersOf } from './rules.ts';
import type { CreateBody, Version } from './schema.ts';
import { createFrom, type Source } from './templates.ts';

export class Creations {
  readonly #parts: E2bParts;
  readonly #templates: TemplateSource;
  /** Monotonic. Until then, this host counts as one without networks for sandboxes. */
  #closedUntilMs = 0;

  constructor(parts: E2bParts, templates: TemplateSource) {
    this.#parts = parts;
    this.#templates = templates;
  }

  /**
   * @param gone aborted when the client disconnects: then nothing is created
   * @throws E2bError; errors of `ControlPlane.create`
   */
  async create(body: CreateBody, version: Version, gone: AbortSignal): Promise<SandboxInfo> {
    const { control, clock } = this.#parts;
    const request = requestOf(body, defaultSeconds(this.#parts, E2B_LIMITS.timeoutSeconds[version]));
    const isDefault = !hasRules(body.network);
    using limit = timeLimit(clock, E2B_LIMITS.createMsMax, gone);
    const { signal } = limit;
    const places = { control, templates: this.#templates };
    const work = createFrom(body.templateID, places, (source) =>
      this.orClosed(isDefault, request.network != null, (isClosed) => {
        const network = isClosed ? null : request.network;
        return control.create(complete(request, body, source, network), signal);
      }),
    );
    try {
      return await orAborted(work, signal, () => notYet(body.templateID, gone));
    } catch (error) {
      // The sandbox may have become ready at that moment.
      if (signal.aborted) this.#undo(work);
      throw error;
    }
  }

  /**
   * Runs `act` with internet access, or without it if this host has no networks and there are no rules.
   * @throws E2bError 400 if there are rules
   */
  async orClosed<T>(isDefault: boolean, wantsNetwork: boolean, act: (isClosed: boolean) => Promise<T>): Promise<T> {
    const { clock } = this.#parts;
    if (!wantsNetwork) return await act(false);
    if (isDefault && clock.now() < this.#closedUntilMs) return await act(true);
    try {
      return await act(false);
    } catch (error) {
      if (!(error instanceof SandboxError) || error.code !== 'network_unavailable') throw error;
      if (!isDefault) {
        const remedy = `${error.remedy ?? 'run the daemon as root'}; or ask for no internet access`;
        throw new E2bError(400, error.message, { cause: error.cause, remedy });
      }
      this.#closedUntilMs = clock.now() + E2B_LIMITS.networkRetryMs;
      return await act(true);
    }
  }

  #undo(work: Promise<SandboxInfo>): void {
    const { control } = this.#parts;
    work
      .then(({ id }) => control.remove(id))
      .catch((error: unknown) => ignore(error, 'nothing was created, or it has ended'));
  }
}

/** A timeout that the client has not named, as far as the caller may have it. */
export const defaultSeconds = ({ secondsMax }: Pick<E2bParts, 'secondsMax'>, seconds: number): number =>
  Math.min(seconds, secondsMax?.() ?? seconds);

/** Converts the parts that do not depend on the host. @throws E2bError 400 */
function requestOf(body: CreateBody, seconds: number): CreateRequest {
  refuseUnsupported(body);
  const { metadata, envVars, autoPause, autoPauseMemory, autoResume, volumeMounts } = body;
  return {
    timeoutMs: Math.max(1, (body.timeout ?? seconds) * 1000),
    queueTimeoutMs: E2B_LIMITS.queueMsMax,
    onTimeout: autoPause !== true ? 'kill' : autoPauseMemory === false ? 'pause-disk-only' : 'pause',
    autoResume: autoResume?.enabled ?? false,
    env: envVars ?? {},
    metadata: metadata ?? {},
    network: networkOptions(body.network, body.allow_internet_access !== false),
    requestHeaders: requestHeadersOf(body.network?.rules),
    ...(volumeMounts == null ? {} : { volumes: volumeMounts }),
  };
}

function complete(
  request: CreateRequest,
  body: CreateBody,
  source: Source,
  network: CreateRequest['network'],
): CreateRequest {
  const isClosed = network === null && request.network !== null;
  const settings = keptNetwork(body.network);
  const kept: Kept = {
    template: body.templateID,
    allowInternetAccess: isClosed ? false : (body.allow_internet_access ?? null),
    ...(settings === undefined ? {} : { network: settings }),
  };
  return { ...request, ...source, network, annotations: formatKept(kept) };
}

/** Drops settings that are null. */
export function keptNetwork(network: CreateBody['network']): Kept['network'] {
  if (network === undefined || network === null) return undefined;
  const { allowOut, denyOut, allowPublicTraffic, maskRequestHost, httpsPorts } = network;
  return {
    ...(allowOut == null ? {} : { allowOut }),
    ...(denyOut == null ? {} : { denyOut }),
    ...(allowPublicTraffic == null ? {} : { allowPublicTraffic }),
    ...(maskRequestHost == null ? {} : { maskRequestHost }),
    ...(httpsPorts == null ? {} : { httpsPorts }),
  };
}

function refuseUnsupported({ iam, mcp, network, ...lifecycle }: CreateBody) {
  if (mcp != null) {
    throw new E2bError(400, 'mcp: MCP servers are not supported', { remedy: 'start them by a command in the sandbox' });
  }
  checkAutoPause(lifecycle);
  if (Object.keys(iam?.tokens ?? {}).length > 0) {
    throw new E2bError(400, 'iam: identity tokens are not supported');
  }
  const own = network?.httpsPorts?.find((port) => [ENVD_PORT, INTERPRETER_PORT].includes(port));
  if (own !== undefined) throw new E2bError(400, `httpsPorts: ${own} is served by the sandbox`);
}

/** As E2B does: a request must not boot a sandbox that was paused without its memory. */
function checkAutoPause({
  autoPause,
  autoPauseMemory,
  autoResume,
}: Pick<CreateBody, 'autoPause' | 'autoPauseMemory' | 'autoResume'>): void {
  if (autoPauseMemory !== false) return;
  if (autoPause !== true) {
    throw new E2bError(400, 'autoPauseMemory: false needs autoPause', {
      remedy: 'set autoPause, or omit autoPauseMemory',
    });
  }
  if (autoResume?.enabled === true) {
    throw new E2bError(400, 'autoPauseMemory: false and autoResume exclude each other', {
      remedy: 'omit autoResume and connect to the sandbox, which boots it from its disk',
    });
  }
}

function notYet(templateId: string, gone: AbortSignal): Error {
  if (gone.aborted) {
    return new SandboxError('cancelled', 'create: the client disconnected', { cause: gone.reason });
  }
  const seconds = E2B_LIMITS.buildRetrySeconds;
  return new E2bError(
    503,
    `the sandbox is not ready yet: the first one of the template ${templateId} builds it, which takes minutes and goes on`,
    { remedy: `try again in ${seconds} s`, retryAfterSeconds: seconds },
  );
}
