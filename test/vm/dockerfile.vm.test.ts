/** Dockerfiles become environments: steps run in VMs, and another VM reads what came out. */
import {
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { silentLog } from '../../src/base/log.ts';
import { silentProgress } from '../../src/base/progress.ts';
import { GIB } from '../../src/base/units.ts';
import { buildEnvironment } from '../../src/host/builds/environment-build.ts';
import { type ImagesContext, openImages } from '../../src/host/runtime/images.ts';
import { makeWorkspace } from '../../src/host/runtime/workspace.ts';
import type { BuildEvent } from '../../src/sandbox/contract/contents.ts';
import { dataExtents } from '../../src/sys/file.ts';
import { makeImage, tar, writeLayout } from '../support/oci-images.ts';
import { exec, useRuntime } from '../support/vm.ts';

const fixture = useRuntime();
const { signal } = new AbortController();
const dir = mkdtempSync(join(tmpdir(), 'nv-dockerfile-vm-'));
const SECRET = 'a-secret-that-no-layer-has';
let context: ImagesContext;
let events: BuildEvent[] = [];

beforeAll(() => {
  const { runtime } = fixture;
  // Tools are shared, results are not.
  const home = { cacheDir: join(dir, 'cache'), runDir: runtime.home.runDir };
  mkdirSync(home.cacheDir);
  // No other file may have built them yet.
  mkdirSync(join(runtime.home.cacheDir, 'builder-tools'), { recursive: true });
  for (const name of ['builder-tools', 'setup.lock']) {
    symlinkSync(join(runtime.home.cacheDir, name), join(home.cacheDir, name));
  }
  context = { home, progress: silentProgress, signal, log: silentLog, quotaBytes: GIB, runtime: async () => runtime };
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

const build = async (dockerfile: string, stop = signal) => {
  events = [];
  return await buildEnvironment({ ...context, signal: stop }, openImages(context), {
    request: {
      dockerfile: Buffer.from(dockerfile),
      dockerfilePath: null,
      contextDir: join(dir, 'context'),
      buildArgs: {},
      target: null,
      secrets: new Map([['t', Buffer.from(SECRET)]]),
      noCache: false,
    },
    vm: { cpus: 1, memoryMib: 512, diskMib: 512, network: null },
    name: null,
    onEvent: (event) => void events.push(event),
  });
};
const output = (): string => events.flatMap((one) => (one.kind === 'output' ? [one.chunk.toString()] : [])).join('');

/** Whether the data of a sparse file contains the text. */
function has(path: string, text: string): boolean {
  const fd = openSync(path, 'r');
  try {
    return dataExtents(fd).some(({ start, end }) => {
      const data = Buffer.alloc(end - start);
      readSync(fd, data, 0, data.length, start);
      return data.includes(text);
    });
  } finally {
    closeSync(fd);
  }
}

const LIST = `
import json, os, stat
found = {}
for at, dirs, files in os.walk('/mnt'):
    for name in dirs + files:
        path = os.path.join(at, name)
        s = os.lstat(path)
        what = f'{stat.filemode(s.st_mode)} {s.st_uid}:{s.st_gid}'
        if stat.S_ISREG(s.st_mode): what += ' ' + open(path).read(99)
        elif stat.S_ISLNK(s.st_mode): what += ' ' + os.readlink(path)
        found[os.path.relpath(path, '/mnt')] = what
print(json.dumps(found))
`;

/** Mounts the disk in a new VM. */
async function contents(image: string, script = LIST): Promise<Record<string, string>> {
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
    const listed = await exec(vm.guest(), ['python3', '-c', script], { user: 'root' });
    return JSON.parse(listed.stdout) as Record<string, string>;
  } finally {
    await vm.stop();
  }
}

describe('a Dockerfile', () => {
  it('stages, files, commands, users, secrets and caches: the result is the same as Docker’s', async () => {
    const files = join(dir, 'context');
    mkdirSync(join(files, 'src/sub'), { recursive: true });
    writeFileSync(join(files, 'src/a.sh'), 'a', { mode: 0o755 });
    writeFileSync(join(files, 'src/sub/b'), 'b', { mode: 0o644 });
    writeFileSync(join(files, 'src/ignored'), 'x');
    symlinkSync('sub/b', join(files, 'src/link'));
    writeFileSync(join(files, '.dockerignore'), '**/ignored\n');
    const layer = tar([
      { name: 'etc/', type: 'dir' },
      { name: 'etc/from-image', data: 'image' },
      { name: 'gone', data: 'x' },
      { name: 'lib', type: 'symlink', target: 'usr/lib' },
      { name: 'usr/lib/', type: 'dir' },
    ]);
    writeLayout(join(dir, 'layout'), makeImage([{ tar: layer }]));
    const built = await build(`
FROM agent AS build
WORKDIR /made
RUN --mount=type=cache,target=/cache echo one > /cache/kept && echo "$PIP_INDEX_URL $(id -u)"
RUN --mount=type=cache,target=/cache \\
    --mount=type=secret,id=t,env=TOKEN \\
    cat /cache/kept && test ! -e /run/secrets/t && echo \${#TOKEN} && (sleep 1000 &)
RUN --mount=type=secret,id=t cp /run/secrets/t /dev/shm/x && test -s /dev/shm/x && test ! -e /cache
USER 1234:77
RUN id -u && id -g && test ! -e /dev/shm/x && test ! -e /run/secrets
USER root
RUN <<E
#!/usr/bin/env python3
import os
open('out', 'w').write(str(os.getppid()))
os.chown('out', 5, 6)
E

FROM oci:${join(dir, 'layout')}
COPY src/ /lib/app/
COPY --chown=7:8 --chmod=700 src/a.sh /x/renamed
COPY --from=build /made/out /keep/
COPY --from=build --chown=1:2 /made /made
COPY <<one <<two /texts/
1
one
2
two
WORKDIR /w
ENTRYPOINT ["/lib/app/a.sh"]
`);
    expect(output()).toMatch(/^http:\/\/127\.0\.0\.1:\d+\/pypi\/simple 0$/m);
    expect(output()).toMatch(new RegExp(`^one\n${SECRET.length}$`, 'm'));
    expect(output()).toMatch(/^1234\n77$/m);
    expect(built.image.config).toMatchObject({ entrypoint: ['/lib/app/a.sh'], workdir: '/w' });
    const found = await contents(built.environment.image);
    expect(found).toMatchObject({
      'etc/from-image': expect.stringMatching(/ image$/),
      lib: expect.stringMatching(/ usr\/lib$/),
      'usr/lib/app/a.sh': '-rwxr-xr-x 0:0 a',
      'usr/lib/app/sub/b': '-rw-r--r-- 0:0 b',
      'usr/lib/app/link': expect.stringMatching(/ sub\/b$/),
      'x/renamed': '-rwx------ 7:8 a',
      'keep/out': '-rw-r--r-- 5:6 0',
      'made/out': '-rw-r--r-- 1:2 0',
      'texts/one': '-rw-r--r-- 0:0 1\n',
      'texts/two': '-rw-r--r-- 0:0 2\n',
      w: 'drwxr-xr-x 0:0',
    });
    expect(Object.keys(found).filter((path) => /ignored|cache|secrets|proc|sys$/.test(path))).toEqual([]);
    for (const kind of ['dockerfile/steps', 'dockerfile/mounts', 'oci/environments']) {
      for (const name of readdirSync(join(dir, 'cache', kind))) {
        const path = join(dir, 'cache', kind, name);
        expect(has(path, SECRET), path).toBe(false);
      }
    }
    const [caches = ''] = readdirSync(join(dir, 'cache/dockerfile/mounts'));
    // The search finds what is there.
    expect(has(join(dir, 'cache/dockerfile/mounts', caches), 'kept')).toBe(true);
  });

  it('hostile commands: secrets of earlier steps are gone, links lead nowhere, processes end', async () => {
    const files = join(dir, 'context');
    mkdirSync(files, { recursive: true });
    mkdirSync(join(files, 'sub'));
    writeFileSync(join(files, 'sub/x'), 'bound\n', { mode: 0o644 });
    writeFileSync(join(files, 'a.tar'), tar([{ name: 'out/marker', data: 'm' }]));
    writeFileSync(join(files, 'ü\nx'), 'name');
    const layer = tar([
      { name: 'd/', type: 'dir', mode: 0o755 },
      { name: 'd/old', data: 'x' },
      { name: 'tmp/', type: 'dir', mode: 0o1777 },
      { name: 'suid', data: 'x', mode: 0o4755 },
      { name: 'app/', type: 'dir' },
      { name: 'app/out', type: 'symlink', target: '/etc' },
      { name: 'app/up', type: 'symlink', target: '/proc/1/root' },
      { name: 'etc/', type: 'dir' },
    ]);
    writeLayout(join(dir, 'hostile'), makeImage([{ tar: layer }]));
    const tool = (...argv: string[]): string =>
      `RUN --mount=type=bind,from=agent,source=/,target=/a ${JSON.stringify([
        '/a/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2',
        '--library-path',
        '/a/usr/lib/x86_64-linux-gnu',
        ...argv,
      ])}`;
    const built = await build(`
FROM agent AS s
ENV A=ü
RUN --mount=type=secret,id=t echo "$A" && (setsid sleep 1000 &)
RUN <<E
#!/usr/bin/env python3
import os
os.mkdir('/x')
os.chroot('/x')
for _ in range(20): os.chdir('..')
os.chroot('.')
secrets = [os.listdir(at) for at in ['/run/neurovisor-secrets'] if os.path.isdir(at)]
print('outside:', os.path.isdir('/stage'), secrets, flush=True)
os.rmdir('/stage/root/x')
E
RUN rm /etc/passwd && mkfifo /etc/passwd && mkdir /made && touch /made/file
USER 5
RUN --mount=type=bind,source=sub/x,target=/b/x --mount=target=/all,ro cat /b/x /all/sub/x && id -u && ! touch /all/y
RUN test ! -e /b && test ! -e /all

FROM oci:${join(dir, 'hostile')}
${tool('/a/usr/bin/rm', '-r', '/d')}
${tool('/a/usr/bin/mkdir', '-m', '700', '/d')}
${tool('/a/usr/bin/touch', '/d/new')}
ADD a.tar /app/
COPY *x /app/up/names/
COPY --from=s /made/file /app/up/made/
WORKDIR /app/up/dir
`);
    expect(output()).toMatch(/^ü$/m);
    expect(output()).toMatch(/^outside: True \[\[\]\]$/m);
    expect(output()).toMatch(/^bound\nbound\n5$/m);
    const found = await contents(built.environment.image);
    expect(found).toMatchObject({
      d: 'drwx------ 0:0',
      'd/new': '-rw-r--r-- 0:0 ',
      tmp: 'drwxrwxrwt 0:0',
      suid: '-rwsr-xr-x 0:0 x',
      'etc/marker': expect.stringMatching(/ m$/),
      'app/out': expect.stringMatching(/ \/etc$/),
    });
    expect(Object.keys(found).filter((path) => /old|^a$|^x$/.test(path))).toEqual([]);
    expect(found['proc/1/root/names/ü\nx']).toMatch(/name$/);
  });

  it('a failing step names its line; the steps before it are kept', async () => {
    const text = 'FROM agent\nRUN echo fine > /fine\n\nRUN echo broken >&2; exit 7\n';
    const failing = await build(text).catch((error: unknown) => error);
    expect(failing).toMatchObject({
      code: 'step_failed',
      line: 4,
      message: expect.stringMatching(/ended with status 7$/),
      cause: 'broken',
    });
    const missing = text.replace(/RUN echo broken.*/, 'RUN ["/no/such/program"]');
    await expect(build(missing)).rejects.toMatchObject({
      line: 4,
      cause: expect.stringMatching(/no such program|No such file/i),
    });
    const cached = events.filter((one) => one.kind === 'step' && one.cached);
    expect(cached).toHaveLength(1);
  });

  it('a command that fills the disk, and one that is canceled: clear errors, and nothing is left', async () => {
    const full = await build('FROM agent\nRUN head -c 1G /dev/zero > /big\n').catch((e: unknown) => e);
    expect(full).toMatchObject({ code: 'step_failed', remedy: expect.stringContaining('--disk') });
    const aborter = new AbortController();
    const stopped = build('FROM agent\nRUN echo started && sleep 1000\n', aborter.signal);
    await expect.poll(output).toContain('started');
    aborter.abort();
    await expect(stopped).rejects.toMatchObject({ code: 'cancelled' });
    const steps = readdirSync(join(dir, 'cache/dockerfile/steps'));
    expect(steps.filter((name) => !/^[0-9a-f]{64}\.ext4$/.test(name))).toEqual([]);
    expect(readdirSync(fixture.runtime.home.runDir).filter((name) => /^[0-9a-z]{20}$/.test(name))).toEqual([]);
  });
});
