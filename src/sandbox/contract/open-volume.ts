/** Access to the files of a volume. */
import { errorCode } from '../../base/errors.ts';
import type { Guest } from '../../machine/guest/guest.ts';
import type { ControlPlane } from './control.ts';
import { SandboxError } from './errors.ts';

/** The files of a volume, in a guest that has it. */
export interface OpenVolume extends AsyncDisposable {
  readonly guest: Guest;
  /** Absolute path of its mount. */
  readonly root: string;
}

export interface OpenVolumeOptions {
  /** Id or name. */
  readonly volume: string;
  readonly access: 'read' | 'write';
  readonly signal?: AbortSignal;
}

/** For a client that vanished. */
const OPEN_MS_MAX = 60 * 60_000;
/** Marks a sandbox that exists only for the files of a volume, and ends with its work. */
const FOR_FILES = 'volume-files';
const ROOT = '/volume';

/**
 * Opens the files of a volume, which the host never mounts: in a running sandbox that has it, otherwise in one made for
 * this, which ends when the result is disposed.
 * @throws SandboxError `not_found`, `in_use`; errors of `ControlPlane.create`
 */
export async function openVolume(
  control: Pick<ControlPlane, 'create' | 'get' | 'guest' | 'remove' | 'volumes'>,
  { volume, access, signal }: OpenVolumeOptions,
): Promise<OpenVolume> {
  const all = await control.volumes();
  const found = all.find(({ id }) => id === volume) ?? all.find(({ name }) => name === volume);
  if (found === undefined) {
    throw new SandboxError('not_found', `there is no volume ${volume}`, { remedy: 'neurovisor volume ls' });
  }
  const { name, attached } = found;
  for (const { sandbox, readOnly } of attached) {
    if (readOnly && access === 'write') continue;
    const info = await control.get(sandbox).catch((error: unknown) => {
      if (errorCode(error) !== 'not_found') throw error;
    });
    const mount = info?.volumes.find((one) => one.name === name);
    if (info?.status !== 'running' || mount === undefined || FOR_FILES in info.metadata) continue;
    return { guest: await control.guest(sandbox), root: mount.path, [Symbol.asyncDispose]: async () => undefined };
  }
  // Repairs what a crash left, if it may write.
  const readOnly = access === 'read' && attached.length > 0;
  const request = { volumes: [{ name, path: ROOT, readOnly }], metadata: { [FOR_FILES]: name }, models: { allow: [] } };
  const { id } = await control.create({ ...request, timeoutMs: OPEN_MS_MAX }, signal).catch(async (error: unknown) => {
    // A tenant whose sandboxes may not last so long gets the longest time that they may.
    if (errorCode(error) === 'forbidden') return await control.create(request, signal);
    throw error;
  });
  const end = async (): Promise<void> => void (await control.remove(id));
  try {
    return { guest: await control.guest(id), root: ROOT, [Symbol.asyncDispose]: end };
  } catch (error) {
    await end();
    throw error;
  }
}
