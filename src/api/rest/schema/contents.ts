/** Images, templates, models and disk usage of the home: requests, and the answers that only REST has. */
import { z } from 'zod';
import type { ProgressEvent } from '../../../base/progress.ts';
import { REQUEST_LIMITS } from '../../../sandbox/contract/limits.ts';
import { imageRecord, listedTemplate, pulledModel } from '../../../sandbox/contract/schema/contents.ts';
import { count, list, ms, templateName, text } from '../../../sandbox/contract/schema/values.ts';

const NAMES_MAX = 64;
const reference = text(REQUEST_LIMITS.imageCharactersMax).min(1);
const NAMES = 'Repeatable. If one is unknown, none is removed.';

/** @param what each name is */
export const namesQuery = (what: string) =>
  z.strictObject({
    name: z
      .preprocess((given) => (typeof given === 'string' ? [given] : given), list(reference, NAMES_MAX).min(1))
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

/** A `BuildEvent`, with its output as text. */
export const buildEvent = z
  .discriminatedUnion('kind', [
    z.object({ kind: z.literal('warning'), text: z.string() }).meta({ id: 'BuildWarning' }),
    z
      .object({
        kind: z.literal('step'),
        number: count.describe('From 1, in the order of their start.'),
        stage: z.string(),
        index: count.describe('Position in the stage, from 1.'),
        count: count.describe('Steps of the stage.'),
        line: count.describe('Of the Dockerfile, from 1.'),
        text: z.string(),
        cached: z.boolean(),
      })
      .meta({ id: 'BuildStepStart' }),
    z
      .object({
        kind: z.literal('output'),
        number: count,
        stream: z.enum(['stdout', 'stderr']),
        base64: z.string().describe('Bytes that the step has written. A slow reader misses some.'),
      })
      .meta({ id: 'BuildOutput' }),
    z.object({ kind: z.literal('done'), number: count, durationMs: ms }).meta({ id: 'BuildStepEnd' }),
    z.object({ kind: z.literal('pack'), stage: z.string() }).meta({ id: 'BuildPack' }),
  ])
  .meta({ id: 'BuildEvent' });
export type SentBuildEvent = z.infer<typeof buildEvent>;

export const imageList = z.object({ images: z.array(imageRecord) }).meta({ id: 'ImageList' });
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
export const imagePruneRequest = z
  .strictObject({ all: z.boolean().default(false).describe('Also images with a name. Default false.') })
  .meta({ id: 'ImagePruneRequest' });

export const templateList = z.object({ templates: z.array(listedTemplate) }).meta({ id: 'TemplateList' });
export const templateImportRequest = z
  .strictObject({ dir: text(4096).min(1).describe('Absolute path on the host.'), name: templateName.optional() })
  .meta({ id: 'TemplateImportRequest' });
export const templatePullRequest = z
  .strictObject({ reference: reference.describe('`REGISTRY/NAME[:TAG]`.'), name: templateName.optional() })
  .meta({ id: 'TemplatePullRequest' });
export const removedTemplates = z
  .object({ templates: z.array(z.string()).describe('Names and keys.') })
  .meta({ id: 'RemovedTemplates' });

export const modelList = z.object({ models: z.array(pulledModel) }).meta({ id: 'PulledModelList' });
export const modelPullRequest = z
  .strictObject({
    source: reference.describe('A reference to a registry; at the socket also an absolute path of the host.'),
    name: text(96).min(1).optional().describe('Default: derived from the source.'),
    file: text(REQUEST_LIMITS.imageCharactersMax).min(1).optional().describe('Which of several files.'),
  })
  .meta({ id: 'ModelPullRequest' });
export const freedBytes = z.object({ bytes: count.describe('Freed.') }).meta({ id: 'FreedBytes' });

export const diskPruneRequest = z
  .strictObject({
    all: z.boolean().default(false).describe('Also cached steps of Dockerfiles and cached packages. Default false.'),
  })
  .meta({ id: 'DiskPruneRequest' });
