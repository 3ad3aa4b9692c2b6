/** The system that a sandbox's programs run in, if not the built-in one: an image's disk and its configuration. */
import type { VmDisk } from '../../machine/vmm/driver.ts';
import type { ImageInfo } from './schema/sandbox.ts';

export type { ImageInfo } from './schema/sandbox.ts';

/** How an image's programs are started (image-spec, config.md). */
export interface ProcessConfig {
  /** `user`, `uid`, `user:group`, …; empty means root. */
  readonly user: string;
  readonly env: Readonly<Record<string, string>>;
  /** Absolute path; `/` if the image names none. */
  readonly workdir: string;
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  /** For example `80/tcp`. */
  readonly exposedPorts: readonly string[];
  readonly stopSignal: string | null;
}

export interface SandboxEnvironment extends ProcessConfig {
  /** The complete reference of the request, for example `python:3.13-slim`. */
  readonly image: string;
  /** Digest of the image's manifest, `sha256:…`. */
  readonly imageDigest: string;
  /** Digest of the disk file, `sha256:…`. */
  readonly digest: string;
}

export interface EnvironmentSource {
  readonly environment: SandboxEnvironment;
  readonly path: string;
}

export function imageInfo(environment: SandboxEnvironment): ImageInfo {
  const { image: name, imageDigest: digest, user, workdir } = environment;
  const { entrypoint, cmd, exposedPorts, stopSignal } = environment;
  return { name, digest, user, workdir, entrypoint, cmd, exposedPorts, stopSignal };
}

/** Display name of an image; a digest is shortened. */
export const shownImage = (name: string): string =>
  name.startsWith('sha256:') ? name.slice(0, 'sha256:'.length + 12) : name;

/** The environment is always the VM's first extra disk, so its name in the guest is known. */
const DEVICE = '/dev/vdc';

/** Tell the guest at boot where its disk is. A VM that resumes from a snapshot knows already. */
export const ENVIRONMENT_BOOT_ARGS: readonly string[] = [`neurovisor_environment=${DEVICE}`];

export function environmentDisk(path: string): VmDisk {
  return { path, access: 'read' };
}

/** Disks that the VM's machine depends on. */
export function environmentDisks(environment: SandboxEnvironment | undefined): { readonly disks?: readonly VmDisk[] } {
  return environment === undefined ? {} : { disks: [environmentDisk('/environment')] };
}
