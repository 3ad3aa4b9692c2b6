/** What a sandbox's programs run in, if it is not the built-in system: the disk of an image, and what the image says. */
import type { VmDisk } from '../../machine/vmm/driver.ts';

/** How an image's programs are started (image-spec, config.md). */
export interface ProcessConfig {
  /** `user`, `uid`, `user:group` …; empty: root. */
  readonly user: string;
  readonly env: Readonly<Record<string, string>>;
  /** Absolute; `/` if the image names none. */
  readonly workdir: string;
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** `80/tcp`. */
  readonly exposedPorts: readonly string[];
  readonly stopSignal: string | null;
}

export interface SandboxEnvironment extends ProcessConfig {
  /** The reference that was asked for, complete: `python:3.13-slim`. */
  readonly image: string;
  /** `sha256:…` of the image's manifest. */
  readonly imageDigest: string;
  /** `sha256:…` of the disk's file. */
  readonly digest: string;
}

/** An environment and where the file of its disk is now. */
export interface EnvironmentSource {
  readonly environment: SandboxEnvironment;
  readonly path: string;
}

/** The public view. */
export type ImageInfo = Omit<SandboxEnvironment, 'image' | 'imageDigest' | 'digest' | 'env'> & {
  /** The reference that was asked for. */
  readonly name: string;
  /** `sha256:…` of its manifest, as `image ls` shows it. */
  readonly digest: string;
};

export function imageInfo(environment: SandboxEnvironment): ImageInfo {
  const { image: name, imageDigest: digest, user, workdir } = environment;
  const { entrypoint, cmd, exposedPorts, stopSignal } = environment;
  return { name, digest, user, workdir, entrypoint, cmd, exposedPorts, stopSignal };
}

/** For people: a digest that stands for a name is cut. */
export const shownImage = (name: string): string =>
  name.startsWith('sha256:') ? name.slice(0, 'sha256:'.length + 12) : name;

/** The first further disk of a VM, so its name in the guest is known. */
const DEVICE = '/dev/vdc';

/** Tell the guest at its boot where the disk is. A VM that continues from a snapshot knows. */
export const ENVIRONMENT_BOOT_ARGS: readonly string[] = [`neurovisor_environment=${DEVICE}`];

export function environmentDisk(path: string): VmDisk {
  return { path, access: 'read' };
}

/** What a VM's machine depends on. */
export function environmentDisks(environment: SandboxEnvironment | undefined): { readonly disks?: readonly VmDisk[] } {
  return environment === undefined ? {} : { disks: [environmentDisk('/environment')] };
}
