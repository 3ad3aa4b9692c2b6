/**
 * Makes the compiled files in the repository: guest kernel, the guest's init, objects of BPF programs. Each part is
 * made from this checkout and, for the kernel, from the source package that its manifest pins.
 */
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { compileInit, digestInit, INIT, prebuiltInitDir } from '../../src/artifacts/image/init.ts';
import { kernelTools } from '../../src/artifacts/image/kernel/build.ts';
import {
  buildRecipe,
  CONFIG,
  type PrebuiltKernel,
  prebuiltKernelDir,
  prebuiltKernelSchema,
  readKernelInputs,
  VMLINUX,
} from '../../src/artifacts/image/kernel/kernel.ts';
import type { KernelSource } from '../../src/artifacts/image/kernel/source.ts';
import { prepareArtifact } from '../../src/artifacts/image/prepare.ts';
import { firstLineOf, runTool } from '../../src/artifacts/image/tool.ts';
import { digestFile } from '../../src/artifacts/image/verify.ts';
import type { Log } from '../../src/base/log.ts';
import { PREBUILT_DIR, type PrebuiltManifest, readPrebuilt } from '../../src/base/prebuilt/manifest.ts';
import type { Progress } from '../../src/base/progress.ts';
import { compile, digestOfSources, PROGRAMS } from '../../src/machine/observe/compile.ts';
import { objectName } from '../../src/machine/observe/shipped.ts';

export interface MakeContext {
  /** Root of the checkout. */
  readonly sourceDir: string;
  /** An empty directory on a disk: a kernel takes a gigabyte. */
  readonly scratchDir: string;
  readonly progress: Progress;
  readonly signal: AbortSignal;
  readonly log: Log;
}

export interface MadePart {
  /** Its directory in the repository. */
  readonly shippedDir: string;
  readonly manifest: PrebuiltManifest;
  /** Paths of the files that are shipped compressed. */
  readonly compressed: readonly string[];
  /** … and uncompressed. */
  readonly plain: readonly string[];
}

export interface Part {
  readonly shippedDir: (sourceDir: string) => string;
  /** Versions of everything that determines the bytes. */
  readonly tools: (signal: AbortSignal) => Promise<Record<string, string>>;
  /** Digest of this checkout's sources and options. */
  readonly inputs: (sourceDir: string) => Promise<string>;
  readonly make: (context: MakeContext) => Promise<MadePart>;
}

const KERNEL_PACKAGE = 'linux-source-6.12';

const kernel: Part = {
  shippedDir: prebuiltKernelDir,
  tools: kernelTools,
  inputs: async (sourceDir) => (await readKernelInputs(sourceDir)).digest,
  make: (context) => makeKernel(context),
};

const init: Part = {
  shippedDir: prebuiltInitDir,
  tools: async (signal) => ({ ...(await kernelTools(signal)), 'libc6-dev': await packageVersion('libc6-dev', signal) }),
  inputs: digestInit,
  async make({ sourceDir, scratchDir, signal }) {
    const path = join(scratchDir, INIT);
    await compileInit(sourceDir, path, signal);
    return {
      shippedDir: prebuiltInitDir(sourceDir),
      manifest: { inputs: await digestInit(sourceDir), tools: await init.tools(signal), files: await describe(path) },
      compressed: [path],
      plain: [],
    };
  },
};

const bpf: Part = {
  shippedDir: (sourceDir) => join(sourceDir, 'bpf', PREBUILT_DIR),
  tools: async (signal) => ({
    clang: await firstLineOf('clang', ['--version'], signal),
    'libbpf-dev': await packageVersion('libbpf-dev', signal),
  }),
  inputs: (sourceDir) => digestOfSources(join(sourceDir, 'bpf')),
  async make({ sourceDir, scratchDir, signal }) {
    const paths: string[] = [];
    for (const program of PROGRAMS) {
      const path = join(scratchDir, objectName(program));
      await compile('clang', join(sourceDir, 'bpf'), program, path);
      paths.push(path);
    }
    return {
      shippedDir: bpf.shippedDir(sourceDir),
      manifest: {
        inputs: await bpf.inputs(sourceDir),
        tools: await bpf.tools(signal),
        files: await describe(...paths),
      },
      compressed: [],
      plain: paths,
    };
  },
};

export const PARTS = { kernel, init, bpf } as const;
export type PartName = keyof typeof PARTS;

/** @param version of the source package. Default: the shipped kernel's */
export async function makeKernel(context: MakeContext, version?: string): Promise<MadePart> {
  const { sourceDir, scratchDir } = context;
  const source = await fetchSource(context, version ?? (await pinnedVersion(sourceDir)));
  const inputs = await readKernelInputs(sourceDir);
  const { files, details } = await prepareArtifact(
    { ...context, cacheDir: join(scratchDir, 'cache') },
    buildRecipe(inputs, source),
  );
  const [vmlinux = '', config = ''] = [VMLINUX, CONFIG].map((name) => files.get(name)?.path);
  const manifest: PrebuiltKernel = {
    inputs: inputs.digest,
    source: details.source,
    kernelVersion: details.kernelVersion,
    tools: details.tools,
    files: await describe(vmlinux, config),
  };
  const shippedDir = prebuiltKernelDir(sourceDir);
  return { shippedDir, manifest, compressed: [vmlinux], plain: [config] };
}

async function pinnedVersion(sourceDir: string): Promise<string> {
  const shipped = await readPrebuilt(prebuiltKernelDir(sourceDir), prebuiltKernelSchema);
  if (shipped !== undefined) return shipped.source.version;
  throw new Error('no kernel is shipped whose source could be taken: add --source VERSION');
}

/** Downloads and unpacks the package; installs nothing. */
async function fetchSource({ scratchDir, signal }: MakeContext, version: string): Promise<KernelSource> {
  const dir = join(scratchDir, 'source');
  await mkdir(dir, { recursive: true });
  await runTool('apt-get', ['download', `${KERNEL_PACKAGE}=${version}`], { cwd: dir, signal });
  const [deb = ''] = (await readdir(dir)).filter((name) => name.endsWith('.deb'));
  await runTool('dpkg-deb', ['-x', join(dir, deb), dir], { signal });
  await rm(join(dir, deb));
  return {
    path: join(dir, 'usr/src', `${KERNEL_PACKAGE}.tar.xz`),
    identity: version,
    owner: { name: KERNEL_PACKAGE, version },
  };
}

async function describe(...paths: readonly string[]): Promise<PrebuiltManifest['files']> {
  const files: PrebuiltManifest['files'] = {};
  for (const path of paths) {
    const name = path.slice(path.lastIndexOf('/') + 1);
    files[name] = { sha256: await digestFile(path), sizeBytes: (await stat(path)).size };
  }
  return files;
}

const packageVersion = (name: string, signal: AbortSignal): Promise<string> =>
  // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own notation
  firstLineOf('dpkg-query', ['-W', '-f', '${Version}\n', name], signal);
