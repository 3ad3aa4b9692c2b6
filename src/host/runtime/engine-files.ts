/**
 * The host files that the built-in engine needs in its jail (I/O): Node, its libraries, this package with its
 * dependencies, and the model; with a GPU also its devices, the driver's libraries and the files these read.
 */

import { existsSync, globSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { modulePath } from '../../base/module-path.ts';
import { PACKAGE_DIR } from '../../base/package-dir.ts';
import type { JailPlan } from '../../machine/jail/plan.ts';
import { librariesOf } from '../../machine/jail/program-tree.ts';

type Files = JailPlan['files'];
type Access = Files[number]['access'];

/** Read by Node and llama.cpp: memory, cores and their caches; the paths of libraries. */
const FACTS = ['/proc/meminfo', '/proc/cpuinfo', '/etc/ld.so.cache'];
const CORES = '/sys/devices/system/cpu';
const DEVICES = ['/dev/null', '/dev/zero', '/dev/urandom'];

/** Where GPU drivers have libraries and settings, by the layouts of Debian, Fedora and NVIDIA. */
const DRIVER_TREES = [
  ...['/lib', '/lib64', '/usr/lib', '/usr/lib64', '/usr/local/cuda', '/usr/local/nvidia'],
  ...['/etc/vulkan', '/usr/share/vulkan', '/usr/share/nvidia', '/usr/share/glvnd'],
  ...['/sys', '/proc/driver/nvidia'],
];
const DRIVER_FACTS = ['/proc/devices', '/proc/modules', '/proc/version', '/proc/filesystems'];
const DEVICE_NODES = ['/dev/nvidia[0-9]*', '/dev/nvidiactl', '/dev/nvidia-uvm*', '/dev/dri/renderD*'];

/** The GPU devices that users other than root may open. */
export function gpuDevices(): string[] {
  return globSync(DEVICE_NODES).filter((path) => {
    const { mode, gid } = statSync(path);
    return isForAll(mode) || ((mode & 0o060) === 0o060 && gid !== 0);
  });
}

const isForAll = (mode: number): boolean => (mode & 0o006) === 0o006;

/** The group that may open these devices; `null` if all users may. */
export function groupOfDevices(devices: readonly string[]): number | null {
  const closed = devices.map((path) => statSync(path)).find(({ mode }) => !isForAll(mode));
  return closed?.gid ?? null;
}

/**
 * @param program Node's own path
 * @param options.libraryPath LD_LIBRARY_PATH; returned as it is in the jail
 * @param gpu devices; empty to compute on the CPU
 */
export async function engineFiles(
  program: string,
  modelPath: string,
  { gpu, libraryPath }: { readonly gpu: readonly string[]; readonly libraryPath: string },
): Promise<{ readonly files: Files; readonly libraryPath: string }> {
  const main = modulePath('../../inference/engine/main.ts', import.meta.url);
  const modules = moduleDirs(main);
  const as = (access: Access, paths: readonly string[]): Files =>
    paths.filter((path) => existsSync(path)).map((path) => ({ path, access }));
  const code = [dirname(main), join(dirname(main), '../../base'), ...modules];
  const libraries = gpu.length === 0 ? await librariesFor(program, modules) : [];
  const named = libraryPath.split(':').filter((path) => path.startsWith('/'));
  const drivers = gpu.length === 0 ? [] : [...DRIVER_TREES, ...named];
  const files = [
    ...as('tree', [...code, ...drivers, CORES]),
    ...as('read', [program, join(PACKAGE_DIR, 'package.json'), ...FACTS]),
    ...as('read', gpu.length === 0 ? libraries : DRIVER_FACTS),
    ...as('read', partsOf(modelPath)),
    ...as('device', [...DEVICES, ...gpu]),
  ];
  // node-llama-cpp searches these to determine the host's C library.
  const dirs = [...new Set(libraries.map((path) => dirname(path)))];
  return {
    // A directory comes before its contents.
    files: files.toSorted((a, b) => a.path.length - b.path.length),
    libraryPath: [...dirs, ...named].join(':'),
  };
}

/** Directories in which Node searches the packages that a module imports. */
function moduleDirs(module: string): string[] {
  const dirs: string[] = [];
  for (let dir = dirname(module); dir !== dirname(dir); dir = dirname(dir)) {
    const candidate = join(dir, 'node_modules');
    if (existsSync(candidate)) dirs.push(candidate);
  }
  return dirs;
}

/** The libraries of Node and of llama.cpp for the CPU, outside of our packages. */
async function librariesFor(program: string, modules: readonly string[]): Promise<string[]> {
  const addon = `@node-llama-cpp/linux-${process.arch}/bins/*/*.{node,so}`;
  const users = [program, ...modules.flatMap((dir) => globSync(join(dir, addon)))];
  const found = await Promise.all(users.map(librariesOf));
  return [...new Set(found.flat())].filter((path) => !path.includes('/node_modules/'));
}

/** A large model has several files; llama.cpp gets the path of the first. */
function partsOf(modelPath: string): string[] {
  const match = /^(.*-)\d{5}(-of-\d{5}\.gguf)$/.exec(modelPath);
  if (match === null) return [modelPath];
  const [, before = '', after = ''] = match;
  return globSync(`${before.replaceAll(/[[\]{}()*?!\\]/g, '\\$&')}[0-9][0-9][0-9][0-9][0-9]${after}`);
}
