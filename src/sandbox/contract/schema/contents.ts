/** What callers see of a home's images, templates, models and disk usage. */
import { z } from 'zod';
import { BUILD_LIMITS, RANGES, REQUEST_LIMITS } from '../limits.ts';
import type { TemplateSpec } from '../spec.ts';
import { networkOptions } from './network.ts';
import { ofImage } from './sandbox.ts';
import { count, ms, type ReadOnly, readOnly, record, text, wallMs, whole } from './values.ts';

const imageLayer = z
  .object({
    digest: z.string(),
    bytes: count.describe('As stored in the registry.'),
    diffId: z.string(),
    compression: z.enum(['none', 'gzip', 'zstd']),
  })
  .meta({ id: 'ImageLayer' });
const healthcheck = z
  .object({
    kind: z.enum(['none', 'exec', 'shell']),
    command: z.array(z.string()),
    intervalMs: ms.nullable(),
    timeoutMs: ms.nullable(),
    retries: z.number().nullable(),
  })
  .meta({ id: 'Healthcheck' });
const imageConfig = z
  .object({
    user: z.string(),
    env: z.record(z.string(), z.string()),
    workdir: z.string(),
    entrypoint: z.array(z.string()),
    cmd: z.array(z.string()),
    exposedPorts: z.array(z.string()),
    labels: z.record(z.string(), z.string()),
    healthcheck: healthcheck.nullable(),
    stopSignal: z.string().nullable(),
  })
  .meta({ id: 'ImageConfig' });
export type ImageConfig = ReadOnly<z.infer<typeof imageConfig>>;
export const imageRecord = readOnly(
  z
    .object({
      digest: z.string().describe('Of the manifest.'),
      names: z.array(z.string()).describe('References that resolved to it; empty after their tags moved on.'),
      platform: z.string(),
      pulledAtMs: wallMs,
      configDigest: z.string(),
      built: z.string().optional().describe('Present if it was built from a Dockerfile; then it has no layers.'),
      layers: z.array(imageLayer).describe('Bottom first.'),
      config: imageConfig,
    })
    .meta({ id: 'Image' }),
);
export type ImageRecord = z.infer<typeof imageRecord>;

const imageDisk = z.object({ digest: z.string() }).meta({ id: 'ImageDisk' });
export const imagePull = readOnly(z.object({ image: imageRecord, environment: imageDisk }).meta({ id: 'ImagePull' }));
export type ImagePull = z.infer<typeof imagePull>;

export const removedImages = readOnly(
  z
    .object({ images: z.array(z.string()).describe('Digests.'), bytes: count.describe('Freed.') })
    .meta({ id: 'RemovedImages' }),
);
export type RemovedImages = z.infer<typeof removedImages>;

const path = text(4096).regex(/^\//, { error: 'expected an absolute path' });
export const imageBuild = readOnly(
  z
    .strictObject({
      dockerfile: text(BUILD_LIMITS.dockerfileCharactersMax).describe('The text of the Dockerfile.'),
      context: z
        .discriminatedUnion('kind', [
          z
            .strictObject({
              kind: z.literal('directory'),
              dir: path,
              dockerfile: path.exactOptional().describe('Path of the Dockerfile, for ignore rules beside it.'),
            })
            .meta({ id: 'BuildDirectory', description: 'A directory of the host; only at the socket.' }),
          z
            .strictObject({
              kind: z.literal('sent'),
              from: text(4096).min(1).describe('Where the files are from: it selects the disks of cache mounts.'),
            })
            .meta({ id: 'SentFiles', description: 'A tar archive that follows, without what .dockerignore names.' }),
        ])
        .describe('Where COPY takes files from.'),
      name: text(REQUEST_LIMITS.imageCharactersMax).min(1).exactOptional().describe('Default: none, only a digest.'),
      args: record(z.string().regex(BUILD_LIMITS.argName), text(BUILD_LIMITS.argCharactersMax), BUILD_LIMITS.argsMax)
        .exactOptional()
        .describe('Values of ARG.'),
      target: text(256).min(1).exactOptional().describe('Stage to build. Default: the last.'),
      secrets: record(
        z.string().regex(BUILD_LIMITS.secretId),
        z.base64().max(BUILD_LIMITS.secretCharactersMax),
        BUILD_LIMITS.secretsMax,
      )
        .exactOptional()
        .describe('Files of `RUN --mount=type=secret`, in base 64, by id. They are in no layer, log or record.'),
      noCache: z.boolean().exactOptional().describe('True: every step runs again. Default false.'),
      cpus: whole(RANGES.cpus).optional().describe('Of the VMs that run the steps, as below.'),
      memoryMib: whole(RANGES.memoryMib).optional(),
      diskMib: whole(RANGES.diskMib).optional().describe('What the steps of a stage may write, MiB.'),
      network: networkOptions.exactOptional().describe('Of the steps. Default: the package gateway alone.'),
    })
    .meta({ id: 'ImageBuild' }),
);
export type ImageBuild = z.infer<typeof imageBuild>;

export const builtImage = readOnly(
  z
    .object({
      image: imageRecord,
      environment: imageDisk,
      warnings: z.array(z.string()).describe('Instructions that have no effect here.'),
      steps: z.object({ run: count, cached: count }).meta({ id: 'BuiltSteps' }),
    })
    .meta({ id: 'BuiltImage' }),
);
export type BuiltImage = z.infer<typeof builtImage>;

/** What a template was made from. */
export const templateSpec: z.ZodType<TemplateSpec> = z
  .object({
    cpus: count,
    memoryMib: count,
    memoryMaxMib: count.exactOptional(),
    diskMib: count,
    warm: z.array(z.string()),
    requirements: z.array(z.string()).exactOptional().describe('Python packages.'),
    environment: z
      .object({
        image: z.string(),
        imageDigest: z.string(),
        digest: z.string().describe('`sha256:…` of its disk.'),
        env: z.record(z.string(), z.string()),
        ...ofImage,
      })
      .meta({ id: 'PoolEnvironment' })
      .exactOptional()
      .describe('Container image; absent: the built-in system.'),
    packagesMinAgeMs: ms.exactOptional(),
    start: z
      .object({ command: z.string(), ready: z.string(), readyTimeoutMs: ms })
      .meta({ id: 'StartCommand' })
      .exactOptional()
      .describe('The program that runs in every sandbox of the template.'),
    card: z.boolean().exactOptional().describe('True: the members have a network card, for requests with a network.'),
  })
  .meta({ id: 'PoolTemplate' });
/** Fields are `null` or empty if the template is not built yet. */
export const listedTemplate = readOnly(
  z
    .object({
      names: z.array(z.string()),
      key: z.string().nullable().describe('Null: not built yet.'),
      spec: templateSpec,
      current: z.boolean().describe('Made with the current kernel, image, VMM, processor and package index.'),
      madeAtMs: wallMs.nullable(),
      machine: z.string().nullable(),
      kernelDigest: z.string().nullable(),
      rootImageDigest: z.string().nullable(),
      modules: z.array(z.object({ name: z.string(), durationMs: ms }).meta({ id: 'ImportedModule' })),
      files: z.record(z.string(), count).describe('Disk usage by file, bytes.'),
    })
    .meta({ id: 'Template' }),
);
export type ListedTemplate = z.infer<typeof listedTemplate>;

export const importedTemplate = readOnly(
  z.object({ name: z.string(), spec: templateSpec }).meta({ id: 'ImportedTemplate' }),
);
export type ImportedTemplate = z.infer<typeof importedTemplate>;

export const pulledModel = readOnly(
  z
    .object({
      name: z.string(),
      bytes: count,
      path: z.string().describe('Of its only or first file, on the host.'),
      source: z.string(),
      version: z.string().describe('Digest of its manifest; of local files, of their sizes and times.'),
      files: z.array(z.object({ name: z.string(), bytes: count, digest: z.string() }).meta({ id: 'ModelFile' })),
      architecture: z.string().nullable(),
      quantization: z.string().nullable(),
      parameters: count,
      contextTokens: count.nullable(),
      hasChatTemplate: z.boolean(),
      pulledAtMs: wallMs,
    })
    .meta({ id: 'PulledModel' }),
);
export type PulledModel = z.infer<typeof pulledModel>;

export const modelPull = readOnly(
  z
    .object({ model: pulledModel, wasThere: z.boolean().describe('Nothing had to be fetched.') })
    .meta({ id: 'ModelPull' }),
);
export type ModelPull = z.infer<typeof modelPull>;

export const diskUsage = readOnly(
  z
    .object({
      home: z.string().describe('Path on the host.'),
      usage: z.array(
        z
          .object({
            kind: z.string().describe('For people.'),
            bytes: count.describe('On disk.'),
            reclaimableBytes: count.describe('What `pruneDisk` with `all` removes, at most.'),
          })
          .meta({ id: 'KindUsage' }),
      ),
      totalBytes: count,
    })
    .meta({ id: 'DiskUsage' }),
);
export type DiskUsage = z.infer<typeof diskUsage>;

export const prunedDisk = readOnly(
  z
    .object({
      templates: z.array(z.string()).describe('Keys.'),
      images: z.array(z.string()).describe('Digests.'),
      freedBytes: count,
    })
    .meta({ id: 'PrunedDisk' }),
);
export type PrunedDisk = z.infer<typeof prunedDisk>;
