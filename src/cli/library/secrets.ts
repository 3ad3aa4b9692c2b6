/** Stored secrets, for programs: `Sandbox.create({ secrets: [{ name, hosts, stored }] })` uses one. */
import type { ControlPlane, StoredSecretInfo } from '../../sandbox/contract/control.ts';
import { withAbort } from './abort.ts';
import type { HostOptions } from './host.ts';
import { hosts } from './hosts.ts';

export type { StoredSecretInfo } from '../../sandbox/contract/control.ts';

/** No method returns a value. @throws SandboxError, ClientError */
export const secrets = {
  /** Stores a secret. @param options.replace whether an existing one gets the value. @throws SandboxError `name_taken` */
  create: (
    name: string,
    value: string,
    options: HostOptions & { readonly replace?: boolean } = {},
  ): Promise<StoredSecretInfo> => {
    const { replace, ...where } = options;
    return at(where, (control) => control.secrets.set({ name, value, replace }));
  },

  /** By name. */
  list: (options: HostOptions = {}): Promise<readonly StoredSecretInfo[]> =>
    at(options, (control) => control.secrets.list()),

  /** @param options.force even if sandboxes use it. @throws SandboxError `not_found`, `in_use` */
  remove: (name: string, options: HostOptions & { readonly force?: boolean } = {}): Promise<void> => {
    const { force, ...where } = options;
    return at(where, (control) => control.secrets.remove(name, force));
  },
} as const;

function at<T>(options: HostOptions, body: (control: ControlPlane) => Promise<T>): Promise<T> {
  return withAbort(options.signal, async () => (await hosts.open(options)).use(body));
}
