/** Volumes, for programs: disks that outlive sandboxes, attached by `Sandbox.create({ volumes })`. */
import type { ControlPlane, VolumeInfo } from '../../sandbox/contract/control.ts';
import { withAbort } from './abort.ts';
import type { HostOptions } from './host.ts';
import { hosts } from './hosts.ts';

export type { VolumeInfo } from '../../sandbox/contract/control.ts';

/** @throws SandboxError, ClientError */
export const volumes = {
  /** Makes an empty volume. @param options.sizeMib default 2048. @throws SandboxError `name_taken`, `disk_full` */
  create: (name: string, options: HostOptions & { readonly sizeMib?: number } = {}): Promise<VolumeInfo> => {
    const { sizeMib, ...where } = options;
    return at(where, (control) => control.createVolume({ name, sizeMib }));
  },

  /** By name. */
  list: (options: HostOptions = {}): Promise<readonly VolumeInfo[]> => at(options, (control) => control.volumes()),

  /** Removes a volume with its files. @throws SandboxError `not_found`, `in_use` */
  remove: (name: string, options: HostOptions = {}): Promise<void> =>
    at(options, (control) => control.removeVolume(name)),
} as const;

function at<T>(options: HostOptions, body: (control: ControlPlane) => Promise<T>): Promise<T> {
  return withAbort(options.signal, async () => (await hosts.open(options)).use(body));
}
