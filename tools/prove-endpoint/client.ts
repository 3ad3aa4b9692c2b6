/** The sandboxes of an E2B-compatible endpoint, through E2B's own client (I/O). */

import { ProofError } from '../../prove/errors.ts';
import { describeError } from '../../src/base/errors.ts';
import { loadE2b } from './e2b.ts';
import { plain } from './verdict.ts';

export interface EndpointOptions {
  /** URL of the control plane (default: E2B_API_URL, or `api.` and the domain). */
  readonly url?: string;
  readonly domain?: string;
  readonly template?: string;
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** The policy in E2B's API; an update replaces it as a whole. */
export interface NetworkPolicy {
  readonly allowInternetAccess?: boolean;
  readonly network?: { readonly allowOut?: string[]; readonly denyOut?: string[] };
}

const EVERYTHING = '0.0.0.0/0';

export const closedBut = (names: readonly string[]): NetworkPolicy => ({
  network: { denyOut: [EVERYTHING], allowOut: [...names] },
});

export interface RemoteSandbox {
  readonly id: string;
  /** @returns stdout. @throws ProofError `endpoint_failed` */
  run(command: string, signal: AbortSignal): Promise<string>;
  /** @returns the reason of a refusal, or undefined on success */
  updateNetwork(policy: NetworkPolicy): Promise<string | undefined>;
  /** @throws Error if the sandbox may still exist */
  kill(): Promise<void>;
}

export interface Endpoint {
  readonly url: string;
  /** @param policy undefined: the request has no policy. @throws ProofError `endpoint_failed` */
  create(policy: NetworkPolicy | undefined): Promise<RemoteSandbox>;
}

/** Timeout of sandboxes that the runner can't end. */
const LIFE_MS = 10 * 60_000;
const COMMAND_MS = 3 * 60_000;
const REQUEST_MS = 60_000;
/** Exit status of shells for a missing program. */
const EXIT_NO_PROGRAM = 127;
const CAUSE_CHARACTERS_MAX = 300;

/** @throws ProofError `endpoint_failed`, for example without a key */
export async function openEndpoint(options: EndpointOptions): Promise<Endpoint> {
  const { env, template = 'base' } = options;
  const connection = connectionOf(options);
  if (env['E2B_DEBUG'] === 'true') {
    const remedy = 'Unset E2B_DEBUG: with it the client creates no sandbox.';
    throw new ProofError('endpoint_failed', 'could not ask the endpoint', { remedy });
  }
  const { CommandExitError, Sandbox } = await loadE2b();
  type Sandbox = Awaited<ReturnType<typeof Sandbox.create>>;
  const remote = (sandbox: Sandbox): RemoteSandbox => ({
    id: sandbox.sandboxId,
    async run(command, signal) {
      try {
        const { stdout } = await sandbox.commands.run(command, { timeoutMs: COMMAND_MS, signal });
        return stdout;
      } catch (error) {
        if (!(error instanceof CommandExitError)) throw failed('run the probes in a sandbox', error);
        const isMissing = error.exitCode === EXIT_NO_PROGRAM;
        const why = `status ${error.exitCode}: ${plain(error.stderr, CAUSE_CHARACTERS_MAX)}`;
        const cause = new Error(isMissing ? `no python3 (${why})` : why);
        const remedy = 'Use --template to choose a template with python3 and its standard library.';
        throw new ProofError('endpoint_failed', 'could not run the probes in a sandbox', { cause, remedy });
      }
    },
    async updateNetwork({ allowInternetAccess, network }) {
      try {
        const access = allowInternetAccess === undefined ? {} : { allowInternetAccess };
        await sandbox.updateNetwork({ ...network, ...access });
        return undefined;
      } catch (error) {
        return plain(describeError(error), CAUSE_CHARACTERS_MAX);
      }
    },
    async kill() {
      await sandbox.kill({ requestTimeoutMs: REQUEST_MS });
    },
  });
  return {
    url: connection.apiUrl,
    async create(policy) {
      try {
        const sandbox = await Sandbox.create(template, {
          ...connection,
          ...policy,
          debug: false,
          timeoutMs: LIFE_MS,
          requestTimeoutMs: REQUEST_MS,
          metadata: { neurovisor: 'prove egress' },
        });
        return remote(sandbox);
      } catch (cause) {
        const remedy = `Check that ${connection.apiUrl} accepts this key, has the template ${template}, and supports network rules.`;
        throw failed('make a sandbox', cause, remedy);
      }
    },
  };
}

/** Makes the cause printable, since it may contain the endpoint's text. */
function failed(what: string, error: unknown, remedy?: string): ProofError {
  const cause = new Error(plain(describeError(error), CAUSE_CHARACTERS_MAX));
  const more = remedy === undefined ? { cause } : { cause, remedy };
  return new ProofError('endpoint_failed', what, more);
}

interface Connection {
  readonly apiKey: string;
  readonly apiUrl: string;
  readonly domain?: string;
  readonly sandboxUrl?: string;
}

/**
 * A server on one port serves its sandboxes at the same URL; a server named `api.` serves them below the rest of its
 * name. By default E2B's client would send a sandbox's requests to E2B's domain.
 */
export function connectionOf({ url, domain: named, env }: EndpointOptions): Connection {
  // An empty variable counts as unset.
  const variable = (name: string): string | undefined => env[name] || undefined;
  const apiKey = variable('E2B_API_KEY') ?? variable('NEUROVISOR_API_KEY');
  if (apiKey === undefined) {
    const remedy = 'Set E2B_API_KEY or NEUROVISOR_API_KEY.';
    throw new ProofError('endpoint_failed', 'could not ask the endpoint without a key', { remedy });
  }
  const given = url ?? variable('E2B_API_URL');
  const asked = named ?? variable('E2B_DOMAIN');
  const apiUrl = given ?? `https://api.${asked ?? 'e2b.app'}`;
  if (!URL.canParse(apiUrl)) {
    const remedy = 'Write e.g. http://127.0.0.1:3000 or https://api.example.com.';
    throw new ProofError('endpoint_failed', `invalid URL "${apiUrl}"`, { remedy });
  }
  const { host, origin } = new URL(apiUrl);
  const domain = asked ?? (host.startsWith('api.') ? host.slice('api.'.length) : undefined);
  const sandboxUrl = variable('E2B_SANDBOX_URL') ?? (domain === undefined ? origin : undefined);
  return {
    apiKey,
    apiUrl,
    ...(domain === undefined ? {} : { domain }),
    ...(sandboxUrl === undefined ? {} : { sandboxUrl }),
  };
}
