/**
 * What a home keeps beside sandboxes: images, templates, pulled models; and its disk usage. While a daemon runs, it
 * alone changes them:
 *
 *     commands, library ──► HomeContents ◄── implemented by  src/host/contents    (the files of a home)
 *                                                            src/api/client       (a daemon, over HTTP)
 *
 * Types only; of what is kept: `schema/contents.ts`. Errors are those of the parts (OciError, ModelError, ImageError) or SandboxErrors; a daemon's keep their
 * codes.
 */
import type { Progress } from '../../base/progress.ts';
import type {
  BuiltImage,
  DiskUsage,
  ImageBuild,
  ImagePull,
  ImageRecord,
  ImportedTemplate,
  ListedTemplate,
  ModelPull,
  PrunedDisk,
  PulledModel,
  RemovedImages,
} from './schema/contents.ts';
import type { TemplateCreation } from './schema/request.ts';

export interface HomeContents {
  readonly images: HomeImages;
  readonly templates: HomeTemplates;
  readonly models: HomeModels;
  readonly disk: HomeDisk;
}

/** How long work reports, and what ends it. An abort leaves nothing half made. */
export interface LongWork {
  readonly progress: Progress;
  readonly signal: AbortSignal;
  /** False: the caller may not name files of the host. Default true; a daemon decides itself. */
  readonly readsHost?: boolean;
}

export interface BuildWork extends LongWork {
  onEvent(event: BuildEvent): void;
}

/** What a build does, in order. Texts and output are hostile. */
export type BuildEvent =
  | { readonly kind: 'warning'; readonly text: string }
  | {
      readonly kind: 'step';
      /** From 1. */
      readonly number: number;
      readonly stage: string;
      /** Position in the stage, from 1. */
      readonly index: number;
      readonly count: number;
      readonly line: number;
      readonly text: string;
      readonly cached: boolean;
    }
  | {
      readonly kind: 'output';
      readonly number: number;
      readonly stream: 'stdout' | 'stderr';
      readonly chunk: Uint8Array;
    }
  | { readonly kind: 'done'; readonly number: number; readonly durationMs: number }
  | { readonly kind: 'pack'; readonly stage: string };

export interface HomeImages {
  /** Newest first. */
  list(): Promise<readonly ImageRecord[]>;
  /** @param name a reference, a digest, or a prefix of at least 6 digits of one; paths are absolute */
  get(name: string): Promise<ImageRecord>;
  /**
   * Fetches an image and makes its disk.
   * @param reference complete; paths are absolute
   * @param when `missing`: a name that is known is not asked for again
   */
  pull(reference: string, when: 'always' | 'missing', work: LongWork): Promise<ImagePull>;
  /**
   * Builds an image from a Dockerfile.
   * @param files tar archive of the context; `null` if the request names a directory
   */
  build(request: ImageBuild, files: AsyncIterable<Uint8Array> | null, work: BuildWork): Promise<BuiltImage>;
  /** Removes images, and the layers that no other image has: all of them or, if a name is unknown, none. */
  remove(names: readonly string[]): Promise<RemovedImages>;
  /** Removes images without a name, or all; and files of no image. */
  prune(all: boolean): Promise<RemovedImages>;
}

export interface HomeTemplates {
  /** Named ones first, by name with `agent` at the top; then the others, newest first. */
  list(): Promise<readonly ListedTemplate[]>;
  /** Builds the template if it is missing, and gives it the name. A ready-made name takes nothing but `card`. */
  create(request: TemplateCreation, work: LongWork): Promise<ListedTemplate>;
  /**
   * Removes names with the files of their templates, and keys: all of them or, if one is unknown, none.
   * @param texts names, keys, or unique prefixes of keys
   * @returns the removed names and keys
   */
  remove(texts: readonly string[]): Promise<readonly string[]>;
  /** Gives a name to the template in a directory of the host. @param name default: that of the export */
  import(dir: string, name: string | undefined, work: LongWork): Promise<ImportedTemplate>;
  /** The same for a template of a registry. @param reference complete */
  pull(reference: string, name: string | undefined, work: LongWork): Promise<ImportedTemplate>;
}

export interface HomeModels {
  /** Pulled ones, by name. */
  list(): Promise<readonly PulledModel[]>;
  /** @param source an absolute path, or a reference to a registry */
  pull(source: string, options: ModelPullOptions, work: LongWork): Promise<ModelPull>;
  /** Removes all of them or, if a name is unknown, none. @returns freed bytes */
  remove(names: readonly string[]): Promise<number>;
}

export interface ModelPullOptions {
  /** Default: derived from the source. */
  readonly name?: string | undefined;
  /** Selects one of several files. */
  readonly file?: string | undefined;
}

export interface HomeDisk {
  usage(): Promise<DiskUsage>;
  /**
   * Removes templates and images without a name. Sandboxes, snapshots and models stay.
   * @param all also cached steps of Dockerfiles and cached packages
   */
  prune(all: boolean): Promise<PrunedDisk>;
}
