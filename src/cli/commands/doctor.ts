/** `neurovisor doctor`: checks each capability, and prints how to fix what does not work, or a report for an issue. */
import type { Config } from '../../base/config.ts';
import { describeError } from '../../base/errors.ts';
import { resolveHome } from '../../base/home.ts';
import { plain } from '../../base/text/plain.ts';
import type { Check } from '../../host/doctor/check.ts';
import { examine } from '../../host/doctor/doctor.ts';
import { examineNetwork } from '../../host/doctor/network.ts';
import { cleanNetworks, viewNetworks } from '../../host/doctor/network-view.ts';
import { reportHost } from '../../host/doctor/report.ts';
import { reportText } from '../../host/doctor/report-text.ts';
import { auditHost } from '../../host/doctor/security.ts';
import { checkTurns } from '../../host/doctor/turns.ts';
import type { Cli } from '../cli.ts';
import { UsageError } from '../failure.ts';
import { openDaemonIfRunning } from '../library/daemon.ts';
import { table } from '../output/table.ts';
import { verdictText } from '../output/verdict.ts';

export interface DoctorFlags {
  readonly security?: boolean;
  readonly report?: boolean;
  readonly network?: boolean;
  readonly clean?: boolean;
}

/** @returns 1 if something that `run` needs is missing */
export async function doctor(cli: Cli, flags: DoctorFlags): Promise<number> {
  if (flags.report === true) return await report(cli);
  if (flags.clean === true && flags.network !== true)
    throw new UsageError('--clean needs --network', 'use neurovisor doctor --network --clean');
  if (flags.clean === true) await cleanUp(cli);
  const checks = await checksOf(cli, flags);
  const status = checks.some((check) => check.verdict === 'missing') ? 1 : 0;
  if (cli.json) {
    cli.printJson(checks);
    return status;
  }
  const rows = checks.map((check) => [check.name, verdictText(check.verdict), check.detail]);
  cli.stdout.write(`${table([flags.security === true ? 'check' : 'capability', 'verdict', 'found'], rows)}\n`);
  const remedies = checks.filter((check) => check.remedy !== null);
  if (remedies.length > 0) cli.stdout.write('\nTo fix:\n');
  for (const { name, remedy } of remedies) cli.stdout.write(`  ${name}: ${plain(remedy ?? '')}\n`);
  return status;
}

async function checksOf({ config, log }: Cli, { security, network }: DoctorFlags): Promise<readonly Check[]> {
  if (network === true) return await examineNetwork(resolveHome(config.home), config.networkPool ?? undefined);
  if (security === true) return await auditHost({ config, log });
  return [...(await examine({ config, log })), ...(await checkDaemon(config))];
}

const CORDONED: Check = {
  name: 'new sandboxes',
  verdict: 'limited',
  detail: 'refused: the host is cordoned',
  remedy: 'neurovisor uncordon',
};

/** Asks the daemon of this home. */
async function checkDaemon(config: Config): Promise<readonly Check[]> {
  const name = 'event loop';
  try {
    await using daemon = await openDaemonIfRunning(config);
    const host = (await daemon?.host()) ?? null;
    return [{ name, ...checkTurns(host) }, ...(host?.cordoned === true ? [CORDONED] : [])];
  } catch (error) {
    return [{ name, verdict: 'limited', detail: `the daemon was not asked: ${describeError(error)}`, remedy: null }];
  }
}

/** Removes what dead processes left behind, and lists it on stderr. */
async function cleanUp(cli: Cli): Promise<void> {
  const orphans = (await viewNetworks()).filter(({ state }) => state === 'orphaned');
  await cleanNetworks();
  for (const { sandbox, interface: name } of orphans) {
    cli.stderr.write(`${plain(`removed leftovers of ${sandbox} (${name})`)}\n`);
  }
}

/** @returns 0, since it judges nothing */
async function report(cli: Cli): Promise<number> {
  const say = (text: string): void => {
    if (cli.stderr.isTTY) cli.stderr.write(`\r\x1b[K${text}`);
  };
  const { config, cancelled: signal } = cli;
  const found = await reportHost({ config, signal, env: process.env, say }).finally(() => say(''));
  if (cli.json) cli.printJson(found);
  else cli.stdout.write(reportText(found));
  return 0;
}
