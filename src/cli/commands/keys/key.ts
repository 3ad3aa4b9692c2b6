/** `neurovisor key`: API keys of tenants. */
import type { KeyInfo } from '../../../api/tenants/keys.ts';
import { systemClock } from '../../../base/clock.ts';
import { plain } from '../../../base/text/plain.ts';
import type { Cli } from '../../cli.ts';
import { administer } from '../../daemon/administer.ts';
import { coarse, table } from '../../output/table.ts';
import { forEach } from '../many.ts';

export interface KeyFlags {
  readonly tenant: string;
  readonly name?: string;
  /** Milliseconds. */
  readonly expires?: number;
}

export async function keyCreate(cli: Cli, { tenant, name, expires }: KeyFlags): Promise<number> {
  const created = await administer(cli, (home) => home.createKey(tenant, name ?? null, expires ?? null));
  if (cli.json) cli.printJson(created);
  else {
    cli.stderr.write(`${plain(`key ${created.id} of tenant ${created.tenant}; it is not shown again`)}\n`);
    cli.stdout.write(`${created.key}\n`);
  }
  return 0;
}

export async function keyList(cli: Cli): Promise<number> {
  const list = await administer(cli, (home) => home.keys());
  if (cli.json) cli.printJson(list);
  else cli.stdout.write(`${keyTable(list, systemClock.wall())}\n`);
  return 0;
}

/** @param now milliseconds since 1970 */
export function keyTable(list: readonly KeyInfo[], now: number): string {
  const rows = list.map((key) => {
    const { id, tenant, name, createdAtMs } = key;
    return [id, tenant, name ?? '-', coarse(now - createdAtMs), statusText(key, now)];
  });
  return table(['id', 'tenant', 'name', 'age', 'status'], rows);
}

function statusText({ expiresAtMs, revokedAtMs }: KeyInfo, now: number): string {
  if (revokedAtMs !== null) return `revoked ${coarse(now - revokedAtMs)} ago`;
  if (expiresAtMs === null) return 'active';
  return expiresAtMs > now ? `expires in ${coarse(expiresAtMs - now)}` : `expired ${coarse(now - expiresAtMs)} ago`;
}

export async function keyRevoke(cli: Cli, ids: readonly string[]): Promise<number> {
  return await administer(cli, (home) => forEach(cli, ids, (id) => home.revokeKey(id)));
}
