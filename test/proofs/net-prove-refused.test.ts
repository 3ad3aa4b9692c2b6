/** The egress suite where it cannot run, and where only the sandbox itself reports. */
import { describe, expect, it } from 'vitest';
import type { Proof } from '../../prove/proof.ts';
import type { Probe, ProbeOutcome } from '../../tools/prove-endpoint/probe.ts';
import { type CliResult, cli } from '../support/cli.ts';
import { type CommandResult, type E2bEndpoint, type EndpointGuest, startE2bEndpoint } from '../support/e2b-endpoint.ts';

const API_KEY = 'e2b_00';
const ENV = { E2B_API_KEY: API_KEY, E2B_DEBUG: '', E2B_SANDBOX_URL: '', E2B_DOMAIN: '' };
/** Denies `localhost`, which resolves everywhere. */
const NAMES = ['--allow-name', 'allowed.example', '--deny-name', 'localhost'];
const NOTHING = new Uint8Array();

const said = (text: string, code = 0): CommandResult => ({ ...{ stdout: Buffer.from(text), stderr: NOTHING, code } });
const guest = (run: (argv: readonly string[]) => Promise<CommandResult>): EndpointGuest => ({
  run,
  setNetwork: async () => undefined,
  end: async () => undefined,
});

/** A guest that answers the probes without running them. */
const pretend = (answer: (probe: Probe) => Partial<ProbeOutcome>): EndpointGuest =>
  guest(async (argv) => {
    const [, list = ''] = /decode\("[^"]*"\)\)' (\S+) /.exec(argv.at(-1) ?? '') ?? [];
    const probes = JSON.parse(Buffer.from(list, 'base64').toString()) as Probe[];
    const silent = { outcome: 'silence', text: '', secured: false };
    const outcomes = probes.map((probe) => ({ ...silent, ...answer(probe) }));
    return said(`welcome\n${JSON.stringify(outcomes)}\n`);
  });

const endpointOf = (made: EndpointGuest): Promise<E2bEndpoint> =>
  startE2bEndpoint({ apiKey: API_KEY, makeGuest: async () => made });

function prove(
  { url }: { url: string },
  more: readonly string[] = NAMES,
  env: Record<string, string> = {},
): Promise<CliResult> {
  const args = ['prove-endpoint', url, ...more];
  return cli(args, { env: { ...ENV, ...env } }).result;
}

const isAllowed = (probe: Probe): boolean => 'host' in probe && probe.host === 'allowed.example';
const PAGE = { outcome: 'answer', text: 'HTTP/1.1 200 OK\r\n\r\n' };

describe('prove-endpoint: impossible to try', () => {
  it('exits with 2 for a refused key, without a key, and without a server', async () => {
    await using endpoint = await endpointOf(guest(async () => said('')));
    const wrong = await prove(endpoint, NAMES, { E2B_API_KEY: 'e2b_11' });
    expect(wrong).toMatchObject({ status: 2, stderr: expect.stringContaining('make a sandbox') });
    const none = await prove(endpoint, NAMES, { E2B_API_KEY: '', NEUROVISOR_API_KEY: '' });
    expect(none).toMatchObject({ status: 2, stderr: expect.stringContaining('Set E2B_API_KEY') });
    const nobody = await prove({ url: 'http://127.0.0.1:1' }, [...NAMES, '-o', 'json']);
    expect(nobody.status).toBe(2);
    expect(JSON.parse(nobody.stdout)).toMatchObject({ error: { code: 'endpoint_failed' } });
    expect(endpoint.made).toEqual([]);
  });

  it('reports a sandbox without python3, and ends it', async () => {
    await using endpoint = await endpointOf(guest(async () => said('', 127)));
    const { status, stderr } = await prove(endpoint);
    expect(status).toBe(2);
    expect(stderr).toContain('no python3');
    expect(endpoint.made).toHaveLength(1);
    expect([...endpoint.alive.keys()]).toEqual([]);
  });

  it('reports output of the sandbox that no probe prints', async () => {
    for (const text of ['', '[]', '{"outcome":', '[1]\u001b[31m']) {
      await using endpoint = await endpointOf(guest(async () => said(text)));
      const { status, stderr } = await prove(endpoint);
      expect(status).toBe(2);
      expect(stderr).toContain('the results of the probes');
      expect([...endpoint.alive.keys()]).toEqual([]);
    }
  });

  it('reports that allowed destinations fail, too', async () => {
    await using endpoint = await endpointOf(pretend(() => ({})));
    const { status, stderr } = await prove(endpoint);
    expect(status).toBe(2);
    expect(stderr).toContain('which the policy allows');
    expect([...endpoint.alive.keys()]).toEqual([]);
  });

  it('reports a missing or silent canary, debug mode, and a wrong proof', async () => {
    await using endpoint = await endpointOf(pretend(() => ({})));
    const without = await prove(endpoint, []);
    expect(without).toMatchObject({ status: 2, stderr: expect.stringContaining('--canary') });
    const canary = ['--canary', '127.0.0.1', '--zone', 'canary.test'];
    const dead = await prove(endpoint, canary);
    expect(dead).toMatchObject({ status: 2, stderr: expect.stringContaining('prove-endpoint canary') });
    const unnamed = await prove(endpoint, canary.slice(0, 2));
    expect(unnamed).toMatchObject({ status: 2, stderr: expect.stringContaining('--zone') });
    const debug = await prove(endpoint, NAMES, { E2B_DEBUG: 'true' });
    expect(debug).toMatchObject({ status: 2, stderr: expect.stringContaining('E2B_DEBUG') });
    expect(endpoint.made).toEqual([]);
  });

  it('ends the sandbox on Ctrl-C', async () => {
    const asked = Promise.withResolvers<void>();
    await using endpoint = await endpointOf(
      guest(() => {
        asked.resolve();
        return new Promise(() => undefined);
      }),
    );
    const running = cli(['prove-endpoint', endpoint.url, ...NAMES], { env: ENV });
    await asked.promise;
    expect(endpoint.alive.size).toBe(1);
    running.kill('SIGINT');
    expect(await running.result).toMatchObject({ status: 130 });
    expect(endpoint.alive.size).toBe(0);
  });
});

describe('prove-endpoint: without a canary', () => {
  it('trusts the sandbox, says so, and does not hold for what could not be tried', async () => {
    await using endpoint = await endpointOf(pretend((probe) => (isAllowed(probe) ? PAGE : {})));
    const { status, stdout } = await prove(endpoint, [...NAMES, '-o', 'json']);
    expect(status).toBe(1);
    const [proof] = JSON.parse(stdout) as Proof[];
    const failed = proof?.tried.filter(({ ok }) => !ok).map(({ what, seen }) => [what, seen]);
    expect(failed).toEqual([
      ['SNI is another name', expect.stringContaining('200')],
      ...['forged Host and SNI', 'smuggling', 'redirects', 'rebinding']
        .concat('header fields added to requests')
        .map((what) => [what, expect.stringMatching(/^not tried/)]),
    ]);
    const isTried = ({ what, expected, ok }: Proof['tried'][number]) =>
      ok && expected !== 'n/a' && !what.startsWith('control');
    const others = proof?.tried.filter(isTried) ?? [];
    expect(others.length).toBeGreaterThan(0);
    expect(others.every(({ seen }) => seen.includes('weaker evidence'))).toBe(true);
    expect(endpoint.alive.size).toBe(0);
  });

  it('detects metadata services and resolvers that answer', async () => {
    const answers = (probe: Probe): Partial<ProbeOutcome> => {
      if (isAllowed(probe)) return PAGE;
      if ('host' in probe && probe.host === '169.254.169.254')
        return { outcome: 'answer', text: 'HTTP/1.1 401 Unauthorized\r\n\r\n' };
      return probe.kind === 'dns' ? { outcome: 'answer', text: 'code 0, 1 answers' } : {};
    };
    await using endpoint = await endpointOf(pretend(answers));
    const { stdout } = await prove(endpoint, [...NAMES, '-o', 'json']);
    const [proof] = JSON.parse(stdout) as Proof[];
    const failed = proof?.tried.filter(({ ok }) => !ok).map(({ what }) => what);
    expect(failed).toEqual(
      expect.arrayContaining([
        'metadata: 169.254.169.254 port 80',
        'the same, of another resolver by UDP',
        'DNS over TLS',
      ]),
    );
    expect(failed).not.toContain('metadata: 168.63.129.16 port 80');
  });
});
