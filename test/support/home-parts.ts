/** What a REST server needs of a home: its administration and its contents, in real files, without VMs. */
import { HomeAdministration } from '../../src/api/tenants/administration.ts';
import { KeyStore } from '../../src/api/tenants/keys.ts';
import { TenantQuotas } from '../../src/api/tenants/quota.ts';
import { HostStore, TenantStore } from '../../src/api/tenants/settings.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLog } from '../../src/base/log.ts';
import { GIB } from '../../src/base/units.ts';
import { homeContents } from '../../src/host/contents/contents.ts';

export function homeParts(dir: string) {
  const stores = { keys: new KeyStore(dir, systemClock), tenants: new TenantStore(dir), host: new HostStore(dir) };
  const quotas = new TenantQuotas(stores.tenants, systemClock);
  const administration = new HomeAdministration(
    dir,
    { keys: () => stores.keys, tenants: () => stores.tenants, host: () => stores.host },
    {
      useOf: async (tenant) => quotas.useOf(tenant),
      removeOwned: async () => ({ endedSandboxes: 2, removedSnapshots: 1, removedVolumes: 0 }),
      forgetBudget: () => undefined,
    },
  );
  const contents = homeContents({
    config: { home: dir, imageQuotaBytes: GIB },
    log: silentLog,
    signal: new AbortController().signal,
    runtime: () => Promise.reject(new Error('no VM')),
  });
  return { ...stores, administration, contents };
}
