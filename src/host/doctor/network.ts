/** Checks whether sandboxes can have a network on this host. Changes nothing. */
import { execFile } from 'node:child_process';
import { accessSync, constants, readFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { CodedError, describeError, errorCode } from '../../base/errors.ts';
import type { Home } from '../../base/home.ts';
import { awaitOr, tryOr } from '../../base/ignore.ts';
import { POOL_DEFAULT, POOL_SETTING, parsePool, poolConflicts } from '../../egress/net/addresses/address-plan.ts';
import { formatCidr } from '../../egress/net/addresses/addresses.ts';
import { parseResolvConf } from '../../egress/net/dns/resolv-conf.ts';
import { NetError } from '../../egress/net/errors.ts';
import { occupiedBlocks } from '../../egress/net/lease/host-view.ts';
import { Links } from '../../egress/net/link/links.ts';
import { LinkError } from '../../egress/net/netlink/errors.ts';
import { FlushGuard } from '../../egress/net/nftables/flush-guard.ts';
import { KERNEL_FEATURES, probeFeature } from '../../egress/net/nftables/kernel-probe.ts';
import { Nft } from '../../egress/net/nftables/nft.ts';
import { legacyFilters, type OtherFilter, otherFilters } from '../../egress/net/nftables/other-filters.ts';
import { readContents } from '../../egress/net/nftables/table-owners.ts';
import { GuardError, probeMetadataGuard } from '../../egress/net/xdp/metadata-guard.ts';
import { ObserveError } from '../../machine/observe/errors.ts';
import { openLatencyProbes } from '../../machine/observe/probes.ts';
import { CAPABILITY, hasCapability } from '../../sys/capability.ts';
import { isRunning } from '../../sys/process-start.ts';
import { TUN_DEVICE } from '../../sys/tun.ts';
import { bpfDir } from '../probes/latency.ts';
import type { Check, Finding } from './check.ts';

const run = promisify(execFile);
/** One line per table of legacy iptables in this network namespace. */
const LEGACY_TABLES = '/proc/net/ip_tables_names';

const FORWARD = '/proc/sys/net/ipv4/ip_forward';
const nft = new Nft();

/**
 * @param home its cache has the BPF objects
 * @param pool address block for sandboxes
 */
export async function examineNetwork(home: Pick<Home, 'cacheDir'>, pool = POOL_DEFAULT): Promise<Check[]> {
  const checks: readonly [string, () => Promise<Finding> | Finding][] = [
    ['privileges', checkPrivileges],
    ['TAP device', checkTun],
    ['nft', checkNft],
    ['packet filter', checkTable],
    ['kernel', checkKernel],
    ['flush guard', checkFlushGuard],
    ['metadata XDP', checkGuard],
    ['latency probes', () => checkProbes(home)],
    ['forwarding', checkForwarding],
    ['address pool', () => checkPool(pool)],
    ['resolver', checkResolver],
    ['other filters', checkOthers],
  ];
  return await Promise.all(
    checks.map(async ([name, check]) => {
      try {
        return { name, ...(await check()) };
      } catch (error) {
        const remedy = error instanceof CodedError ? (error.remedy ?? null) : null;
        return { name, verdict: 'missing' as const, detail: describeError(error), remedy };
      }
    }),
  );
}

const ok = (detail: string): Finding => ({ verdict: 'ok', detail, remedy: null });

function checkPrivileges(): Finding {
  if (hasCapability(CAPABILITY.NET_ADMIN)) return ok('CAP_NET_ADMIN');
  return {
    verdict: 'missing',
    detail: 'this user cannot change the network',
    remedy: 'run NeuroVisor as root, or with CAP_NET_ADMIN',
  };
}

function checkTun(): Finding {
  try {
    accessSync(TUN_DEVICE, constants.R_OK | constants.W_OK);
    return ok(TUN_DEVICE);
  } catch (error) {
    const isAbsent = errorCode(error) === 'ENOENT';
    const remedy = isAbsent
      ? `load the kernel module tun (modprobe tun) or give the container ${TUN_DEVICE}`
      : `let this user open ${TUN_DEVICE}`;
    return { verdict: 'missing', detail: describeError(error), remedy };
  }
}

async function checkNft(): Promise<Finding> {
  return ok(await nft.version());
}

async function checkTable(): Promise<Finding> {
  const { layout, entries } = readContents(await nft.listCounters());
  const dead = entries.filter(({ owner }) => !isRunning(owner)).length;
  if (layout === 'other') {
    return {
      verdict: 'limited',
      detail: 'the table belongs to another version of NeuroVisor',
      remedy: 'stop the sandboxes of that version',
    };
  }
  if (layout === 'none') return ok('no table yet');
  const left = dead === 0 ? '' : `, ${dead} left by a killed process (the next start removes them)`;
  const running = entries.length - dead;
  return ok(`${running} ${running === 1 ? 'sandbox' : 'sandboxes'}${left}`);
}

/** Tries each expression of our rules in a transaction that leaves nothing behind. */
async function checkKernel(): Promise<Finding> {
  const missing: string[] = [];
  for (const [feature, expression] of Object.entries(KERNEL_FEATURES)) {
    try {
      await nft.apply(probeFeature(expression));
    } catch (error) {
      if (!(error instanceof NetError && error.code === 'nft_refused')) throw error;
      missing.push(feature);
    }
  }
  const remedy = 'use a kernel with nf_tables and its modules ct, fib, connlimit, limit, quota, reject';
  if (missing.length > 0) {
    return { verdict: 'missing', detail: `this kernel lacks ${missing.join(', ')}`, remedy };
  }
  return ok(Object.keys(KERNEL_FEATURES).join(', '));
}

function checkFlushGuard(): Finding {
  const owner = { pid: process.pid, startTicks: 'probe' };
  try {
    new FlushGuard(owner).close();
    return ok('guests stay isolated when another program flushes the ruleset');
  } catch (error) {
    if (!(error instanceof LinkError)) throw error;
    const detail = `flushing the ruleset exposes guests for half a second: ${describeError(error)}`;
    return { verdict: 'limited', detail, remedy: 'use Linux 5.12 or newer' };
  }
}

function checkGuard(): Finding {
  try {
    probeMetadataGuard();
    return ok('drops packets to metadata services before the packet filter');
  } catch (error) {
    if (!(error instanceof GuardError)) throw error;
    const detail = `only the packet filter blocks metadata services: ${describeError(error)}`;
    return { verdict: 'limited', detail, remedy: error.remedy ?? null };
  }
}

/** Compiles and loads the probes, and removes them. */
async function checkProbes(home: Pick<Home, 'cacheDir'>): Promise<Finding> {
  try {
    using _ = await openLatencyProbes({ dir: bpfDir(home) });
    return ok('`net latency` can measure packets');
  } catch (error) {
    if (!(error instanceof ObserveError)) throw error;
    const detail = `not available (sandboxes work without them): ${describeError(error)}`;
    return { verdict: 'limited', detail, remedy: error.remedy ?? null };
  }
}

function checkForwarding(): Finding {
  const value = readFileSync(FORWARD, 'latin1').trim();
  if (value === '1') return ok('on, stays on');
  accessSync(FORWARD, constants.W_OK);
  return ok('off; enabled while a sandbox has a network');
}

function checkPool(text: string): Finding {
  const pool = parsePool(text);
  using links = new Links();
  const [first] = poolConflicts(pool, occupiedBlocks(links));
  if (first === undefined) return ok(text);
  return {
    verdict: 'missing',
    detail: `${text} overlaps ${formatCidr(first.block)} (${first.what})`,
    remedy: `set ${POOL_SETTING} to a private block that this host does not use`,
  };
}

function checkResolver(): Finding {
  const resolvers = parseResolvConf(readFileSync('/etc/resolv.conf', 'utf8'));
  if (resolvers.length > 0) return ok(resolvers.map(({ address }) => address).join(', '));
  return {
    verdict: 'limited',
    detail: '/etc/resolv.conf has no nameserver: guests cannot resolve names',
    remedy: 'add a nameserver line',
  };
}

async function checkOthers(): Promise<Finding> {
  const legacy = await readLegacyFilters();
  if (legacy === null) {
    return {
      verdict: 'limited',
      detail: 'iptables-legacy has rules, which nft does not list; its FORWARD chain may drop packets',
      remedy: 'install iptables, so that the rules can be read (iptables-legacy -S)',
    };
  }
  const others = [...otherFilters(await nft.listChains()), ...legacy];
  if (others.length === 0) return ok('none that would block a guest');
  const what = others.map(({ manager, hook }) => `${manager} drops ${hook}`);
  return {
    verdict: 'limited',
    detail: [...new Set(what)].join(', '),
    remedy: [...new Set(others.map(({ remedy }) => remedy))].join(' ; '),
  };
}

/** `null` if there are rules that can't be read. */
async function readLegacyFilters(): Promise<OtherFilter[] | null> {
  const names = tryOr('', 'a kernel without legacy iptables', () => readFileSync(LEGACY_TABLES, 'latin1'));
  if (!/^filter$/m.test(names)) return [];
  return await awaitOr(null, 'reported as unreadable', async () =>
    legacyFilters((await run('iptables-legacy', ['-S'])).stdout),
  );
}
