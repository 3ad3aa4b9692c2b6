/** Builds an image as a caller asks for it: with files of this host, or with files that came with the request. */
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { BuildRequest } from '../../artifacts/dockerfile/build.ts';
import { STAGE_VM_DEFAULTS } from '../../artifacts/dockerfile/limits.ts';
import { writeSentContext } from '../../artifacts/dockerfile/sent-context.ts';
import { newSandboxId } from '../../base/ids.ts';
import type { BuildWork } from '../../sandbox/contract/contents.ts';
import { SandboxError } from '../../sandbox/contract/errors.ts';
import type { BuiltImage, ImageBuild } from '../../sandbox/contract/schema/contents.ts';
import { type Images, type ImagesContext, parseReference, type Reference } from '../runtime/images.ts';
import { checkNewName } from '../runtime/named-templates/names.ts';
import { makeWorkspace } from '../runtime/workspace.ts';
import { buildEnvironment } from './environment-build.ts';

/**
 * @param files of the request; read only if it says that they were sent
 * @param checkBase refuses images that the caller may not use
 * @throws DockerfileError, OciError, ImageError, SandboxError
 */
export async function buildImage(
  context: ImagesContext,
  images: Images,
  request: ImageBuild,
  files: AsyncIterable<Uint8Array> | null,
  { onEvent }: Pick<BuildWork, 'onEvent'>,
  checkBase: (reference: Reference) => void,
): Promise<BuiltImage> {
  const { context: source, name, args = {}, secrets = {}, network = null } = request;
  if (name !== undefined) checkNewName(name);
  const reference = name === undefined ? null : parseReference(name, '/');
  await using place = await placeOf(context, source, files);
  const { cpus, memoryMib, diskMib } = STAGE_VM_DEFAULTS;
  const built = await buildEnvironment(context, images, {
    request: {
      dockerfile: Buffer.from(request.dockerfile),
      ...place.files,
      buildArgs: args,
      target: request.target ?? null,
      secrets: new Map(Object.entries(secrets).map(([id, text]) => [id, Buffer.from(text, 'base64')])),
      noCache: request.noCache ?? false,
    },
    vm: {
      cpus: request.cpus ?? cpus,
      memoryMib: request.memoryMib ?? memoryMib,
      diskMib: request.diskMib ?? diskMib,
      network,
    },
    name: reference,
    onEvent,
    checkBase,
  });
  const { image, environment, warnings, steps } = built;
  return { image, environment: { digest: environment.digest }, warnings, steps };
}

interface Place extends AsyncDisposable {
  readonly files: Pick<BuildRequest, 'contextDir' | 'dockerfilePath' | 'sentFrom'>;
}

/** Sent files get a workspace, so that the next daemon removes what a killed one leaves. */
async function placeOf(
  { home, signal }: ImagesContext,
  source: ImageBuild['context'],
  files: AsyncIterable<Uint8Array> | null,
): Promise<Place> {
  if (source.kind === 'directory') {
    const { dir, dockerfile = null } = source;
    return { files: { contextDir: dir, dockerfilePath: dockerfile }, [Symbol.asyncDispose]: async () => undefined };
  }
  if (files === null) throw new SandboxError('spec_invalid', 'the files of the context were not sent');
  const workspace = await makeWorkspace(home.runDir, newSandboxId());
  try {
    const contextDir = join(workspace.dir, 'context');
    await mkdir(contextDir, { mode: 0o700 });
    await writeSentContext(contextDir, files, signal);
    const sent = { contextDir, dockerfilePath: null, sentFrom: source.from };
    return { files: sent, [Symbol.asyncDispose]: () => workspace.remove() };
  } catch (error) {
    await workspace.remove();
    throw error;
  }
}
