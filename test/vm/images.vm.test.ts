/** Images become disks: layers are unpacked and merged in VMs, and another VM reads what came out. */
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { ImageBuilder } from '../../src/artifacts/oci/builder.ts';
import { IMAGE_LIMITS, Images } from '../../src/artifacts/oci/images.ts';
import { silentLog } from '../../src/base/log.ts';
import { silentProgress } from '../../src/base/progress.ts';
import { GIB, MIB } from '../../src/base/units.ts';
import { openBuilder, parseReference, preparePulls } from '../../src/host/runtime/images.ts';
import { makeWorkspace } from '../../src/host/runtime/workspace.ts';
import {
  makeImage,
  type TarEntry,
  type TestCompression,
  type TestLayer,
  tar,
  writeLayout,
} from '../support/oci-images.ts';
import { exec, useRuntime } from '../support/vm.ts';

const fixture = useRuntime();
const { signal } = new AbortController();
const dir = mkdtempSync(join(tmpdir(), 'nv-images-vm-'));
let builder: ImageBuilder;

beforeAll(async () => {
  const { home } = fixture.runtime;
  const context = {
    home,
    progress: silentProgress,
    signal,
    log: silentLog,
    quotaBytes: GIB,
    runtime: async () => fixture.runtime,
  };
  await preparePulls(context);
  builder = await openBuilder(context);
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

let count = 0;
const pull = async (layers: readonly TestLayer[], layerBytesMax = 64 * MIB) => {
  count += 1;
  const name = `layout${count}`;
  writeLayout(join(dir, name), makeImage(layers));
  const images = new Images({
    cacheDir: join(dir, 'cache'),
    architecture: process.arch === 'x64' ? 'amd64' : process.arch,
    builder,
    progress: silentProgress,
    limits: { ...IMAGE_LIMITS, layerBytesMax },
  });
  return await images.pull(parseReference(`oci:${name}:latest`, dir), 'always', signal);
};

/** What a guest sees of each path: type, mode, owner, size, time, target or content. */
const LIST = `
import hashlib, json, os, stat
found = {}
for at, dirs, files in os.walk('/mnt'):
    for name in ['.'] * (at == '/mnt') + dirs + files:
        path = os.path.join(at, name)
        s = os.lstat(path)
        kind = stat.filemode(s.st_mode)
        what = f'{kind} {s.st_uid}:{s.st_gid} {int(s.st_mtime)}'
        if stat.S_ISREG(s.st_mode):
            data = open(path, 'rb').read()
            what += f' {s.st_nlink} ' + (data.decode() if len(data) < 99 else f'{len(data)} {hashlib.sha256(data).hexdigest()[:12]}')
        elif stat.S_ISLNK(s.st_mode): what += ' ' + os.readlink(path)
        elif stat.S_ISCHR(s.st_mode) or stat.S_ISBLK(s.st_mode):
            what += f' {os.major(s.st_rdev)},{os.minor(s.st_rdev)}'
        found[os.path.normpath(os.path.relpath(path, '/mnt'))] = what
print(json.dumps(found))
`;

/** Mounts the disk in a new VM. */
async function contents(image: string): Promise<Record<string, string>> {
  const { runtime } = fixture;
  const vm = await runtime.startVm({ memoryMib: 256, diskMib: 64 }, signal, {
    makeWorkspace: async ({ id }) => ({
      ...(await makeWorkspace(runtime.home.runDir, id)),
      disks: [{ path: image, access: 'read' }],
    }),
  });
  try {
    const mount = ['mount', '-t', 'erofs', '-o', 'ro', '/dev/vdc', '/mnt'];
    expect(await exec(vm.guest(), mount, { user: 'root' })).toMatchObject({ exitCode: 0 });
    const listed = await exec(vm.guest(), ['python3', '-c', LIST], { user: 'root' });
    return JSON.parse(listed.stdout) as Record<string, string>;
  } finally {
    await vm.stop();
  }
}

const T = 1_700_000_000;
const LONG = `long/${'n'.repeat(90)}/${'m'.repeat(120)}`;

describe('an image as a disk', () => {
  it('layers: owners, modes, times, links, nodes, long names; whiteouts and opaque directories', async () => {
    const lower: TarEntry[] = [
      { name: './', type: 'dir', mode: 0o755 },
      { name: 'bin/', type: 'dir' },
      { name: 'bin/su', data: 'su', mode: 0o4755 },
      { name: 'bin/link', type: 'link', target: 'bin/su' },
      { name: 'bin/soft', type: 'symlink', target: '../bin/su' },
      { name: 'dev/', type: 'dir' },
      { name: 'dev/null', type: 'char', device: [1, 3], mode: 0o666 },
      { name: 'dev/sda', type: 'block', device: [8, 0], mode: 0o660, gid: 6 },
      { name: 'run/', type: 'dir' },
      { name: 'run/pipe', type: 'fifo', mode: 0o600 },
      { name: 'home/', type: 'dir' },
      { name: 'home/app/', type: 'dir', mode: 0o700, uid: 1000, gid: 70_000, mtime: 5 },
      { name: 'home/app/ü', data: 'ü', uid: 1000, gid: 70_000, mtime: 1 },
      { name: LONG, data: 'long' },
      { name: 'etc/', type: 'dir', mode: 0o751, uid: 3 },
      { name: 'etc/gone', data: 'x' },
      { name: 'etc/kept', data: 'x' },
      { name: 'old/', type: 'dir' },
      { name: 'old/a', data: 'a' },
      { name: 'opaque/', type: 'dir' },
      { name: 'opaque/lower', data: 'x' },
    ];
    const upper: TarEntry[] = [
      // Its parent is only implied, and keeps the attributes of the layer below.
      { name: 'etc/.wh.gone' },
      { name: 'etc/new', data: 'new' },
      { name: '.wh.old' },
      { name: 'opaque/', type: 'dir', mode: 0o711 },
      { name: 'opaque/.wh..wh..opq' },
      { name: 'opaque/upper', data: 'y' },
      // No entry names these directories.
      { name: 'implied/deep/x', data: 'x' },
    ];
    const sparse = Buffer.alloc(3 * MIB);
    sparse.write('end', sparse.length - 3);
    const top: TarEntry[] = [{ name: 'sparse', data: sparse }];
    const { environment } = await pull([
      { tar: tar(lower), compression: 'gzip' },
      { tar: tar(upper), compression: 'zstd' },
      { tar: tar(top), compression: 'none' },
    ]);
    const found = await contents(environment.image);
    expect(found).toEqual({
      '.': `drwxr-xr-x 0:0 ${T}`,
      bin: `drwxr-xr-x 0:0 ${T}`,
      'bin/su': `-rwsr-xr-x 0:0 ${T} 2 su`,
      'bin/link': `-rwsr-xr-x 0:0 ${T} 2 su`,
      'bin/soft': `lrw-r--r-- 0:0 ${T} ../bin/su`,
      dev: `drwxr-xr-x 0:0 ${T}`,
      'dev/null': `crw-rw-rw- 0:0 ${T} 1,3`,
      'dev/sda': `brw-rw---- 0:6 ${T} 8,0`,
      run: `drwxr-xr-x 0:0 ${T}`,
      'run/pipe': `prw------- 0:0 ${T}`,
      home: `drwxr-xr-x 0:0 ${T}`,
      'home/app': 'drwx------ 1000:70000 5',
      'home/app/ü': '-rw-r--r-- 1000:70000 1 1 ü',
      long: 'drwxr-xr-x 0:0 1',
      [`long/${'n'.repeat(90)}`]: 'drwxr-xr-x 0:0 1',
      [LONG]: `-rw-r--r-- 0:0 ${T} 1 long`,
      etc: `drwxr-x--x 3:0 ${T}`,
      'etc/kept': `-rw-r--r-- 0:0 ${T} 1 x`,
      'etc/new': `-rw-r--r-- 0:0 ${T} 1 new`,
      opaque: `drwx--x--x 0:0 ${T}`,
      'opaque/upper': `-rw-r--r-- 0:0 ${T} 1 y`,
      implied: 'drwxr-xr-x 0:0 1',
      'implied/deep': 'drwxr-xr-x 0:0 1',
      'implied/deep/x': `-rw-r--r-- 0:0 ${T} 1 x`,
      sparse: expect.stringMatching(new RegExp(`^-rw-r--r-- 0:0 ${T} 1 ${3 * MIB} `)),
    });
  });

  it('paths out of the image end in its root', async () => {
    const entries = [
      { name: '../../up', data: 'u' },
      { name: '/etc/abs', data: 'a' },
    ];
    const { environment } = await pull([{ tar: tar(entries) }]);
    expect(Object.keys(await contents(environment.image)).sort()).toEqual(['.', 'etc', 'etc/abs', 'up']);
  });
});

describe('a hostile image', () => {
  const below = [
    { name: 'lib', type: 'symlink', target: 'usr/lib' },
    { name: 'lib/x', data: 'x' },
  ] as const;
  // The first part does not compress: more than a pipe holds is left when the build gives up.
  const zeros = Buffer.concat([randomBytes(MIB), Buffer.alloc(255 * MIB), randomBytes(MIB)]);
  it.each<[string, readonly TestLayer[], string, RegExp]>([
    [
      'a bomb: 257 MiB in 2 MiB, with more to come when the build gives up',
      [{ tar: tar([{ name: 'x', data: zeros }]), compression: 'zstd' as TestCompression }],
      'image_too_large',
      /more than/,
    ],
    [
      'a layer with other content than its digest',
      [{ tar: tar([{ name: 'x' }]), diffId: `sha256:${'0'.repeat(64)}` }],
      'image_invalid',
      /has the digest/,
    ],
    ['an entry below a link of its layer', [{ tar: tar(below) }], 'image_invalid', /symbolic link/],
    [
      'an entry below a link of a lower layer',
      [{ tar: tar(below.slice(0, 1)) }, { tar: tar(below.slice(1)) }],
      'image_invalid',
      /symbolic link/,
    ],
    ['rubbish', [{ tar: Buffer.alloc(4096, 'x') }], 'image_invalid', /./],
    [
      'an archive that is cut off',
      [{ tar: tar([{ name: 'x', data: Buffer.alloc(9000, 'x') }]).subarray(0, 5000) }],
      'image_invalid',
      /./,
    ],
  ])('%s: a clear error, and nothing of it is stored', async (_, layers, code, cause) => {
    const failure = await pull(layers).catch((error: unknown) => error);
    expect(failure).toMatchObject({ code, remedy: expect.any(String) });
    expect(String((failure as Error).cause)).toMatch(cause);
  });
});
