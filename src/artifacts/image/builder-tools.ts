/**
 * Builds the disk of tools for the VM that builds images: mkfs.erofs and a zstd decompressor, both static, and the
 * scripts that drive them (guest/builder). It is an EROFS image itself, made by the mkfs.erofs that is on it.
 */
import { copyFile, mkdir, readFile, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { z } from 'zod';
import { MIB } from '../../base/units.ts';
import { EROFS_SHA256, EROFS_VERSION, fetchErofsSource } from './erofs-source.ts';
import { ImageError } from './errors.ts';
import { BUILDER_PACKAGES, installHostPackages, missingHostPackages } from './host-packages.ts';
import { type Job, type PrepareContext, prepareArtifact } from './prepare.ts';
import { runTool } from './tool.ts';
import { digestBytes } from './verify.ts';

const KIND = 'builder-tools';
const RECIPE_VERSION = 1;
const SPACE_BYTES = 128 * MIB;
const IMAGE = 'tools.erofs';
const SCRIPTS = ['build.py', 'step.py', 'step_root.py', 'step_copy.py'];
const UUID = '6e657572-6f76-4973-8f72-000000000003';

const detailsSchema = z.object({ erofsUtils: z.string() });

/** @returns the disk's path and digest. @throws ImageError */
export async function prepareBuilderTools(
  context: PrepareContext,
): Promise<{ readonly path: string; readonly digest: string }> {
  const { sourceDir } = context;
  const patch = join(sourceDir, 'image', 'erofs-utils.patch');
  const scripts = SCRIPTS.map((name) => join(sourceDir, 'guest', 'builder', name));
  const unzstd = join(sourceDir, 'guest', 'builder', 'unzstd.c');
  const parts = await Promise.all([patch, ...scripts, unzstd].map((path) => readFile(path)));
  const artifact = await prepareArtifact(context, {
    kind: KIND,
    title: 'Build the tools that build images',
    key: digestBytes(`${KIND} ${RECIPE_VERSION}`, EROFS_SHA256, ...parts),
    files: [IMAGE],
    spaceBytes: SPACE_BYTES,
    details: detailsSchema,
    build: async (job) => {
      // A Dockerfile on `agent` pulls no image, so nothing has installed them.
      await installHostPackages(context, await missingHostPackages(BUILDER_PACKAGES));
      await build(job, { patch, unzstd, scripts });
      return { erofsUtils: EROFS_VERSION };
    },
  });
  const image = artifact.files.get(IMAGE);
  if (image === undefined) throw new ImageError('result_invalid', `there is no ${IMAGE}`);
  return { path: image.path, digest: image.sha256 };
}

interface Sources {
  readonly patch: string;
  readonly unzstd: string;
  readonly scripts: readonly string[];
}

async function build(job: Job, { patch, unzstd, scripts }: Sources): Promise<void> {
  const { scratchDir, outDir, signal, report } = job;
  const tools = join(scratchDir, 'tools');
  const source = join(scratchDir, 'erofs-utils');
  for (const dir of [tools, source]) await mkdir(dir);
  report('fetch erofs-utils');
  const tarball = join(scratchDir, 'erofs-utils.tar.gz');
  await fetchErofsSource(job, tarball);
  await runTool('tar', ['-xf', tarball, '-C', source, '--strip-components=1'], { signal });
  await runTool('patch', ['-p1', '--quiet', '-d', source, '-i', patch], { signal });
  report('compile erofs-utils');
  const mkfs = join(tools, 'mkfs.erofs');
  await writeFile(join(source, 'config.h'), '');
  await runTool('gcc', [...STATIC, ...DEFINES, '-o', mkfs, ...FILES, '-lpthread'], { signal, cwd: source });
  await runTool('gcc', [...STATIC, '-o', join(tools, 'unzstd'), unzstd, '-lzstd'], { signal });
  for (const script of scripts) await copyFile(script, join(tools, basename(script)));
  report('pack the tools');
  const same = ['-T0', `-U${UUID}`, '--all-root', '--quiet'];
  await runTool(mkfs, [...same, join(outDir, IMAGE), tools], { signal });
}

/** Without a build id, which would differ between build directories. */
const STATIC = ['-static', '-O2', '-s', '-w', '-Wl,--build-id=none'];

/**
 * Results of erofs-utils' configure script, without compressors, registries and FUSE. glibc and Linux have all of
 * these, so autoconf and its tools are not needed.
 */
const HAVE = [
  ...['DIRENT_H', 'ENDIAN_H', 'FCNTL_H', 'GETOPT_H', 'INTTYPES_H', 'LIMITS_H', 'STDDEF_H'],
  ...['STDINT_H', 'STDLIB_H', 'STRING_H', 'UNISTD_H', 'LINUX_FALLOC_H', 'LINUX_FS_H'],
  ...['LINUX_TYPES_H', 'SYS_IOCTL_H', 'SYS_MMAN_H', 'SYS_RANDOM_H', 'SYS_RESOURCE_H'],
  ...['SYS_STAT_H', 'SYS_STATFS_H', 'SYS_SYSMACROS_H', 'SYS_TIME_H', 'SYS_UIO_H', 'SYS_XATTR_H'],
  ...['STRUCT_STAT_ST_RDEV', 'STRUCT_STAT_ST_ATIM', 'MEMRCHR', 'COPY_FILE_RANGE', 'FALLOCATE'],
  ...['GETRANDOM', 'GETRLIMIT', 'GETTID', 'GETTIMEOFDAY', 'LGETXATTR', 'LLISTXATTR', 'LSETXATTR'],
  ...['PREAD64', 'PWRITE64', 'PWRITEV', 'POSIX_FADVISE', 'FSTATFS', 'STRDUP', 'UTIMENSAT'],
  'SYSCONF',
];
const DEFINES = [
  '-D_GNU_SOURCE',
  '-D_FILE_OFFSET_BITS=64',
  '-DHAVE_CONFIG_H',
  ...HAVE.map((name) => `-DHAVE_${name}`),
  '-DEROFS_MAX_BLOCK_SIZE=4096',
  `-DPACKAGE_VERSION="${EROFS_VERSION}"`,
  `-DPACKAGE_STRING="erofs-utils ${EROFS_VERSION}"`,
  ...['-I.', '-Iinclude', '-Ilib'],
];

const LIBRARY = [
  ...['config', 'io', 'cache', 'super', 'inode', 'xattr', 'exclude', 'namei', 'data', 'compress'],
  ...['compressor', 'zmap', 'decompress', 'compress_hints', 'hashmap', 'sha256', 'blobchunk'],
  ...['dir', 'fragments', 'dedupe', 'uuid_unparse', 'uuid', 'tar', 'block_list', 'rebuild'],
  ...['diskbuf', 'bitops', 'dedupe_ext', 'vmdk', 'metabox', 'global', 'importer', 'base64'],
  ...['kite_deflate', 'compressor_deflate', 'xxhash', 'gzran'],
  ...['remotes/oci', 'remotes/docker_config'],
];
const FILES = [...LIBRARY.map((name) => `lib/${name}.c`), 'mkfs/main.c'];
