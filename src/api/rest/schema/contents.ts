/** Images, templates, models and disk usage of the home: requests and answers. */
import { z } from 'zod';
import type { ProgressEvent } from '../../../base/progress.ts';
import type {
  DiskUsage,
  ImagePull,
  ImageRecord,
  ImportedTemplate,
  ListedTemplate,
  ModelPull,
  PrunedDisk,
  PulledModel,
  RemovedImages,
} from '../../../sandbox/contract/contents.ts';
import { REQUEST_LIMITS } from '../../../sandbox/contract/limits.ts';
import { count, ms, templateName, text, wallMs } from '../../../sandbox/contract/schema/values.ts';
import { templateSpec } from './answers.ts';

const NAMES_MAX = 64;
const reference = text(REQUEST_LIMITS.imageCharactersMax).min(1);
const NAMES = 'Repeatable. If one is unknown, none is removed.';

/** @param what each name is */
export const namesQuery = (what: string) =>
  z.strictObject({
    name: z
      .preprocess((given) => (typeof given === 'string' ? [given] : given), z.array(reference).min(1).max(NAMES_MAX))
      .describe(`${what} ${NAMES}`),
  });
export const imageQuery = z.strictObject({
  name: reference.optional().describe('Only this one: a reference, a digest, or a unique prefix of one.'),
});

export const progressEvent: z.ZodType<ProgressEvent> = z
  .discriminatedUnion('kind', [
    z
      .object({
        kind: z.literal('start'),
        step: z.string().describe('Name of the step.'),
        title: z.string().describe('For people.'),
        estimateMs: ms,
        isWhole: z.boolean().exactOptional().describe('Steps that start before its end are parts of it.'),
      })
      .meta({ id: 'StepStart' }),
    z
      .object({
        kind: z.literal('update'),
        step: z.string(),
        fraction: z.number().exactOptional().describe('0 to 1.'),
        detail: z.string().exactOptional(),
      })
      .meta({ id: 'StepUpdate' }),
    z
      .object({ kind: z.literal('done'), step: z.string(), cached: z.boolean(), durationMs: ms })
      .meta({ id: 'StepDone' }),
    z.object({ kind: z.literal('failed'), step: z.string(), message: z.string() }).meta({ id: 'StepFailed' }),
  ])
  .meta({ id: 'ProgressEvent' });

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
const image: z.ZodType<ImageRecord> = z
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
  .meta({ id: 'Image' });
export const imageList = z.object({ images: z.array(image) }).meta({ id: 'ImageList' });
export const imagePull: z.ZodType<ImagePull> = z
  .object({ image, environment: z.object({ digest: z.string() }).meta({ id: 'ImageDisk' }) })
  .meta({ id: 'ImagePull' });
export const imagePullRequest = z
  .strictObject({
    reference: reference.describe(
      'Complete, such as `python:3.13`. At the socket also `docker-archive:`, `oci:` and `docker-daemon:`, with ' +
        'absolute paths of the host.',
    ),
    when: z
      .enum(['always', 'missing'])
      .default('always')
      .describe('`missing`: a name that is known is not asked for again. Default `always`.'),
  })
  .meta({ id: 'ImagePullRequest' });
export const removedImages: z.ZodType<RemovedImages> = z
  .object({ images: z.array(z.string()).describe('Digests.'), bytes: count.describe('Freed.') })
  .meta({ id: 'RemovedImages' });
export const imagePruneRequest = z
  .strictObject({ all: z.boolean().default(false).describe('Also images with a name. Default false.') })
  .meta({ id: 'ImagePruneRequest' });

const listedTemplate: z.ZodType<ListedTemplate> = z
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
  .meta({ id: 'Template' });
export const templateList = z.object({ templates: z.array(listedTemplate) }).meta({ id: 'TemplateList' });
export const importedTemplate: z.ZodType<ImportedTemplate> = z
  .object({ name: z.string(), spec: templateSpec })
  .meta({ id: 'ImportedTemplate' });
export const templateImportRequest = z
  .strictObject({ dir: text(4096).min(1).describe('Absolute path on the host.'), name: templateName.optional() })
  .meta({ id: 'TemplateImportRequest' });
export const templatePullRequest = z
  .strictObject({ reference: reference.describe('`REGISTRY/NAME[:TAG]`.'), name: templateName.optional() })
  .meta({ id: 'TemplatePullRequest' });
export const removedTemplates = z
  .object({ templates: z.array(z.string()).describe('Names and keys.') })
  .meta({ id: 'RemovedTemplates' });

const pulledModel: z.ZodType<PulledModel> = z
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
  .meta({ id: 'PulledModel' });
export const modelList = z.object({ models: z.array(pulledModel) }).meta({ id: 'PulledModelList' });
export const modelPull: z.ZodType<ModelPull> = z
  .object({ model: pulledModel, wasThere: z.boolean().describe('Nothing had to be fetched.') })
  .meta({ id: 'ModelPull' });
export const modelPullRequest = z
  .strictObject({
    source: reference.describe('A reference to a registry; at the socket also an absolute path of the host.'),
    name: text(96).min(1).optional().describe('Default: derived from the source.'),
    file: text(REQUEST_LIMITS.imageCharactersMax).min(1).optional().describe('Which of several files.'),
  })
  .meta({ id: 'ModelPullRequest' });
export const freedBytes = z.object({ bytes: count.describe('Freed.') }).meta({ id: 'FreedBytes' });

export const diskUsage: z.ZodType<DiskUsage> = z
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
  .meta({ id: 'DiskUsage' });
export const diskPruneRequest = z
  .strictObject({
    all: z.boolean().default(false).describe('Also cached steps of Dockerfiles and cached packages. Default false.'),
  })
  .meta({ id: 'DiskPruneRequest' });
export const prunedDisk: z.ZodType<PrunedDisk> = z
  .object({
    templates: z.array(z.string()).describe('Keys.'),
    images: z.array(z.string()).describe('Digests.'),
    freedBytes: count,
  })
  .meta({ id: 'PrunedDisk' });
