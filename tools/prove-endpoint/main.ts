/**
 * Entry of `./neurovisor prove-endpoint`: the egress proof in sandboxes of another service. The npm package does not
 * contain it.
 */
import { isIPv4 } from 'node:net';
import { describeProof } from '../../prove/command.ts';
import { ProofError } from '../../prove/errors.ts';
import { describeError } from '../../src/base/errors.ts';
import type { Cli } from '../../src/cli/cli.ts';
import { type OutputFlags, perform } from '../../src/cli/definitions/perform.ts';
import { output } from '../../src/cli/definitions/shared-options.ts';
import { failureJson, failureText, UsageError } from '../../src/cli/failure.ts';
import { runTool, toolProgram } from '../tool-program.ts';

interface EndpointFlags {
  readonly domain?: string;
  readonly template?: string;
  readonly canary?: string;
  readonly zone?: string;
  readonly allowName?: string;
  readonly denyName?: string;
  readonly resolver?: string;
}

interface CanaryFlags {
  readonly zone?: string;
  readonly listen?: string;
  readonly address?: string;
}

const RESOLVER = '8.8.8.8';
const EXIT_NOT_TRIED = 2;

const program = toolProgram('prove-endpoint')
  .description(
    "Try to get out of sandboxes of another service, through E2B's client. The API key is E2B_API_KEY or " +
      'NEUROVISOR_API_KEY. A canary on a machine of yours, with a DNS zone delegated to it, observes what gets out. ' +
      'Exit status: 0 everything holds, 1 something does not hold, 2 usage error, or the endpoint could not be tested.',
  )
  .argument('[url]', 'control plane (default: E2B_API_URL, or else api. plus the domain)')
  .option('--domain <name>', 'domain of its sandboxes (default: E2B_DOMAIN)')
  .option('--template <name>', 'template of its sandboxes (default: base)')
  .option('--canary <host>', 'host that runs neurovisor prove-endpoint canary')
  .option('--zone <name>', 'DNS zone whose names resolve to the canary (default: name of the canary)')
  .option('--allow-name <name>', 'without a canary: public web site to allow')
  .option('--deny-name <name>', 'without a canary: public web site to deny')
  .option('--resolver <address>', `without a canary: public resolver (default: ${RESOLVER})`)
  .addOption(output())
  .addHelpText(
    'after',
    `
Examples:
  ./neurovisor prove-endpoint canary --address 203.0.113.5 --zone canary.example.org
  ./neurovisor prove-endpoint https://api.example.com --canary canary.example.org`,
  )
  .action((url: string | undefined, flags: EndpointFlags & OutputFlags) =>
    perform(flags, (cli) => proveThere(cli, url, flags)),
  );
program
  .command('canary')
  .summary('observe what gets out, on a machine of yours')
  .option('--zone <name>', 'DNS zone that is delegated to this machine')
  .option('--listen <address>', 'address to listen on (default: 0.0.0.0)')
  .option('--address <address>', 'address that its names resolve to (default: the listen address)')
  .addOption(output())
  .action((flags: CanaryFlags & OutputFlags) => perform(flags, (cli) => runCanary(cli, flags)));

await runTool(program);

async function proveThere(cli: Cli, endpoint: string | undefined, flags: EndpointFlags): Promise<number> {
  const { allowName: allowed, denyName: denied, resolver = RESOLVER } = flags;
  const names = allowed === undefined || denied === undefined ? {} : { names: { allowed, denied, resolver } };
  const { domain, template, canary, zone } = flags;
  const given = Object.entries({ domain, template, canary, zone }).filter(([, value]) => value !== undefined);
  const url = endpoint === undefined ? {} : { url: endpoint };
  const { proveEndpoint } = await import('./prove-endpoint.ts');
  try {
    const onLeft = (id: string, error: unknown): void =>
      cli.log.warn('could not remove a sandbox; it expires in ten minutes', {
        sandbox: id,
        error: describeError(error),
      });
    const options = { env: cli.env, onLeft, ...url, ...names, ...Object.fromEntries(given) };
    const proof = await proveEndpoint(options, cli.cancelled);
    if (cli.json) cli.printJson([proof]);
    else cli.stdout.write(`${describeProof(proof)}\n`);
    return proof.holds ? 0 : 1;
  } catch (error) {
    if (!(error instanceof ProofError)) throw error;
    if (cli.json) cli.printJson(failureJson(error));
    else cli.stderr.write(`${failureText(error)}\n`);
    return EXIT_NOT_TRIED;
  }
}

async function runCanary(cli: Cli, flags: CanaryFlags): Promise<number> {
  const { listen = '0.0.0.0', zone, address = listen } = flags;
  if (zone === undefined)
    throw new UsageError(
      'canary needs --zone',
      'for example neurovisor prove-endpoint canary --zone canary.example.org …',
    );
  if (!isIPv4(listen) || !isIPv4(address) || address === '0.0.0.0')
    throw new UsageError(
      'canary needs an IPv4 address for its names',
      'for example neurovisor prove-endpoint canary --address 203.0.113.5 …',
    );
  const { startCanary } = await import('./canary.ts');
  await using _canary = await startCanary({ listen, address, zone: zone.toLowerCase() });
  cli.stderr.write(`neurovisor: canary listening on ${listen}; press Ctrl-C to stop\n`);
  const ended = Promise.withResolvers<void>();
  if (cli.cancelled.aborted) ended.resolve();
  cli.cancelled.addEventListener('abort', () => ended.resolve(), { once: true });
  await ended.promise;
  return cli.signalStatus ?? 0;
}
