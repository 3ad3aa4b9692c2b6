/**
 * What a home keeps beside sandboxes: images, templates, pulled models; and its disk usage. While a daemon runs, it alone changes them:
 *
 *     commands, library ──► HomeContents ◄── implemented by  src/host/contents    (the files of a home)
 *                                                            src/api/client       (a daemon, over HTTP)
 *
 * Types only. Errors are those of the parts (OciError, ModelError, ImageError) or SandboxErrors; a daemon's keep their
 * codes.
 */
import type { Progress } from '../../base/progress.ts';
import type { TemplateCreation } from './schema/request.ts';
import type { TemplateSpec } from './spec.ts';

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
  /** Removes images, and the layers that no other image has: all of them or, if a name is unknown, none. */
  remove(names: readonly string[]): Promise<RemovedImages>;
  /** Removes images without a name, or all; and files of no image. */
  prune(all: boolean): Promise<RemovedImages>;
}

export interface ImagePull {
  readonly image: ImageRecord;
  /** Of the image's disk, `sha256:…`. */
  readonly environment: { readonly digest: string };
}

export interface RemovedImages {
  /** Digests. */
  readonly images: readonly string[];
  /** Freed. */
  readonly bytes: number;
}

export interface ImageRecord {
  /** Digest of the manifest. */
  readonly digest: string;
  /** References that resolved to it; empty after their tags moved on. */
  readonly names: readonly string[];
  /** `linux/amd64`. */
  readonly platform: string;
  /** Milliseconds since 1970. */
  readonly pulledAtMs: number;
  readonly configDigest: string;
  /** Key of the files of an image that was built here, which has no layers. Absent for a pulled image. */
  readonly built?: string | undefined;
  /** Bottom first. `bytes`: as stored in the registry. */
  readonly layers: readonly ImageLayer[];
  readonly config: ImageConfig;
}

export interface ImageLayer {
  readonly digest: string;
  readonly bytes: number;
  readonly diffId: string;
  readonly compression: 'none' | 'gzip' | 'zstd';
}

export interface ImageConfig {
  readonly user: string;
  readonly env: Readonly<Record<string, string>>;
  readonly workdir: string;
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly exposedPorts: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly healthcheck: Healthcheck | null;
  readonly stopSignal: string | null;
}

export interface Healthcheck {
  readonly kind: 'none' | 'exec' | 'shell';
  readonly command: readonly string[];
  readonly intervalMs: number | null;
  readonly timeoutMs: number | null;
  readonly retries: number | null;
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

export interface ImportedTemplate {
  readonly name: string;
  readonly spec: TemplateSpec;
}

/** Fields are `null` or empty if the template is not built yet. */
export interface ListedTemplate {
  /** A template and its variant with a network card have the same names. */
  readonly names: readonly string[];
  readonly key: string | null;
  readonly spec: TemplateSpec;
  /** True if made with the current kernel, image, VMM, processor and package index. */
  readonly current: boolean;
  /** Milliseconds since 1970. */
  readonly madeAtMs: number | null;
  readonly machine: string | null;
  readonly kernelDigest: string | null;
  readonly rootImageDigest: string | null;
  readonly modules: readonly { readonly name: string; readonly durationMs: number }[];
  /** Disk usage by file, bytes. */
  readonly files: Readonly<Record<string, number>>;
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

export interface ModelPull {
  readonly model: PulledModel;
  /** True if nothing had to be fetched. */
  readonly wasThere: boolean;
}

export interface PulledModel {
  readonly name: string;
  readonly bytes: number;
  /** Path of its only or first file, on the host. */
  readonly path: string;
  /** The complete reference of the request. */
  readonly source: string;
  /** Digest of its manifest; for local files, a digest of sizes and times. */
  readonly version: string;
  readonly files: readonly { readonly name: string; readonly bytes: number; readonly digest: string }[];
  readonly architecture: string | null;
  readonly quantization: string | null;
  readonly parameters: number;
  readonly contextTokens: number | null;
  readonly hasChatTemplate: boolean;
  /** Milliseconds since 1970. */
  readonly pulledAtMs: number;
}

export interface HomeDisk {
  usage(): Promise<DiskUsage>;
  /**
   * Removes templates and images without a name. Sandboxes, snapshots and models stay.
   * @param all also cached steps of Dockerfiles and cached packages
   */
  prune(all: boolean): Promise<PrunedDisk>;
}

export interface DiskUsage {
  /** Path of the home on its machine. */
  readonly home: string;
  readonly usage: readonly KindUsage[];
  readonly totalBytes: number;
}

export interface KindUsage {
  /** For people: `images`, `Dockerfile steps`. The last one is `other`. */
  readonly kind: string;
  /** On disk: sparse files count what they hold, and a file with several names once. */
  readonly bytes: number;
  /** What `prune(true)` removes, at most. */
  readonly reclaimableBytes: number;
}

export interface PrunedDisk {
  /** Keys. */
  readonly templates: readonly string[];
  /** Digests. */
  readonly images: readonly string[];
  readonly freedBytes: number;
}
