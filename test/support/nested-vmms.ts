/**
 * The requirements on a sandbox on KVM, the same for both VMMs: a daemon in the nested host, driven by our own client.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { KIB, MIB } from '../../src/base/units.ts';
import type { Guest } from '../../src/machine/guest/link.ts';
import { DISK_REQUEST_BYTES_MAX } from '../../src/machine/vmm/firecracker/config.ts';
import type { CreateRequest, SandboxInfo } from '../../src/sandbox/contract/control.ts';
import { countBeyond, readCount, startCounter } from './counter.ts';
import type { NestedDaemon, NestedVmm, NestedWorld, VmmState } from './nested.ts';
import { ALLOWED, FORBIDDEN, METADATA } from './network-world.ts';
import { exec, python } from './vm.ts';

export interface VmmExpectation {
  readonly vmm: NestedVmm;
  /** Matches `host().vmm`. */
  readonly version: RegExp;
  /** Name of the process, as the kernel knows it. */
  readonly program: string;
  readonly pidsMax: number;
}

export const FIRECRACKER: VmmExpectation = {
  vmm: 'firecracker',
  version: /^Firecracker 1\.\d+\.\d+/,
  program: 'firecracker',
  pidsMax: 81,
};
export const QEMU: VmmExpectation = { vmm: 'qemu', version: /^QEMU .*KVM/, program: 'qemu-system-x86', pidsMax: 81 };

/** `smoke`: only the cases that show KVM, cgroup v2, jail, network, bridge, pause and fork. */
export type NestedCases = 'smoke' | 'all';

const MEMORY_MIB = 256;
/** The guest's memory, 288 MiB, and 1/256 of the former (docs/firecracker.md). */
const MEMORY_LIMIT_BYTES = (MEMORY_MIB + 288 + MEMORY_MIB / 256) * MIB;
const SMALL = { cpus: 1, memoryMib: MEMORY_MIB, diskMib: 128, boot: true } as const;
const ONLY_ALLOWED = { mode: 'allowlist', allow: [ALLOWED.name] } as const;
const CLOCK_MS_MAX = 10_000;
const PAUSED_MS = 3_000;
/** Each takes 20 s to a minute there. */
const FORKS = { smoke: 2, all: 4 } as const;
/** Lines of `identityOf`: sandbox, host name, machine, boot, and two of the kernel's random generator. */
const IDENTITY = [0, 1, 2, 3, 4, 5];

const READ_BYTES = MIB;
/** Prints how long it reads a file past the guest's page cache. */
const READ = `
import mmap, os, time
fd = os.open('big', os.O_RDONLY | os.O_DIRECT)
page = mmap.mmap(-1, 65536)
began = time.monotonic()
while os.readv(fd, [page]): pass
print(time.monotonic() - began)
`;

/** Standard library only: importing more takes long in an emulated host. */
const CHAT = `
import json, os, urllib.request
body = json.dumps({'model': 'm1', 'messages': [{'role': 'user', 'content': 'hi'}]}).encode()
request = urllib.request.Request(os.environ['OPENAI_BASE_URL'] + '/chat/completions', body,
                                 {'Content-Type': 'application/json', 'Authorization': 'Bearer stolen'})
answer = urllib.request.urlopen(request, timeout=120)
print(answer.status, json.loads(answer.read())['choices'][0]['message']['content'])
`;

/** Body of a `describe`: the cases share one sandbox, in order, since each start takes 20 s there. */
export function nestedCases(world: NestedWorld, expected: VmmExpectation, cases: NestedCases): void {
  let daemon: NestedDaemon;
  let main: SandboxInfo;
  const control = () => daemon.control;
  const moreCase = (title: string, body: () => Promise<void>): void => {
    if (cases === 'all') it(title, body);
  };
  const guest = (id = main.id): Promise<Guest> => control().guest(id);
  const create = (more: CreateRequest = {}): Promise<SandboxInfo> =>
    control().create({ ...SMALL, queueTimeoutMs: 600_000, ...more });
  const sh = async (script: string, user = 'user', id = main.id): Promise<string> => {
    const { stdout, stderr } = await exec(await guest(id), ['sh', '-c', script], { user });
    return (stdout + stderr).trim();
  };

  /** The values that must not be shared, one per line. */
  const identityOf = async (id: string): Promise<string[]> => {
    const script = `
      echo $NEUROVISOR_SANDBOX_ID
      cat /proc/sys/kernel/hostname /etc/machine-id /proc/sys/kernel/random/boot_id /proc/sys/kernel/random/uuid
      head -c 16 /dev/urandom | od -An -tx1`;
    return (await sh(script, 'user', id)).split('\n');
  };

  beforeAll(async () => {
    daemon = await world.serve(expected.vmm);
    main = await create({ network: ONLY_ALLOWED, env: { OWN: 'mine' } });
  });
  afterAll(async () => {
    if (daemon === undefined) return;
    for (const { id } of await control().list()) await control().remove(id);
    for (const { id } of await control().snapshots()) await control().removeSnapshot(id);
    expect(await daemon.stop()).toEqual([]);
    expect(await daemon.stderr()).toBe('');
  });

  it('create: a Linux guest boots, under KVM', async () => {
    expect(main).toMatchObject({ status: 'running', origin: 'boot', accelerator: 'kvm' });
    expect((await control().host()).vmm).toMatch(expected.version);
    expect(await sh('uname -s; id -un')).toBe('Linux\nuser');
    const { stdout } = await python(await guest(), 'print(6 * 7)');
    expect(stdout).toBe('42\n');
  });

  moreCase('exec: streams and exit status arrive', async () => {
    const script = 'echo out; echo err >&2; exit 3';
    const outcome = await exec(await guest(), ['sh', '-c', script]);
    expect(outcome).toMatchObject({ stdout: 'out\n', stderr: 'err\n', exitCode: 3 });
  });

  moreCase('files: what is written is read again, by us and by the guest', async () => {
    const { files } = await guest();
    const content = Buffer.alloc(MIB, 'neurovisor');
    await files.write('deep/down/file', content);
    expect((await files.readAll('deep/down/file')).equals(content)).toBe(true);
    expect(await sh('wc -c < deep/down/file')).toBe(`${MIB}`);
  });

  moreCase('console: what a program writes there is in the logs', async () => {
    expect(await sh('echo said-$((40 + 2)) > /dev/console', 'root')).toBe('');
    await expect.poll(async () => (await control().logs(main.id)).console).toContain('said-42');
  });

  it('cgroup v2: the group of the VMM limits memory, swap, tasks and processor', async () => {
    const { group, program } = await world.vmmOf(main.id);
    expect(program).toBe(expected.program);
    expect(group).toEqual({
      'memory.max': `${MEMORY_LIMIT_BYTES}`,
      'memory.swap.max': '0',
      'memory.oom.group': '1',
      'pids.max': `${expected.pidsMax}`,
      'cpu.max': '200000 100000',
      'io.max': '',
    });
  });

  moreCase('cgroup v2: io.max is twice the disk limits, and the VMM reads no faster than it allows', async () => {
    const bytesPerSecond = MIB / 4;
    await control().update(main.id, { diskLimits: { bytesPerSecond } });
    const { group, groupDir } = await world.vmmOf(main.id);
    const [, disk] = /^(\d+:\d+) rbps=524288 wbps=524288 riops=max wiops=max$/.exec(group['io.max'] ?? '') ?? [];
    expect(disk).toBeDefined();
    await control().update(main.id, { diskLimits: {} });
    await sh(`dd if=/dev/urandom of=big bs=64k count=${READ_BYTES / 65_536} conv=fsync`);
    /**
     * Seconds that the guest needs to read data that only the nested host's disk has, as from a VMM without its own
     * limits.
     */
    const read = async (limit: string): Promise<number> => {
      await world.sh(`
        sync && echo 3 > /proc/sys/vm/drop_caches
        echo '${disk} ${limit}' > ${groupDir}/io.max`);
      return Number((await python(await guest(), READ)).stdout);
    };
    const unlimitedS = await read('rbps=max');
    const limitedS = await read(`rbps=${bytesPerSecond}`);
    // The kernel lets a slice of time pass at once.
    const leastS = READ_BYTES / bytesPerSecond / 2;
    expect(unlimitedS).toBeLessThan(leastS);
    expect(limitedS).toBeGreaterThan(leastS);
    await world.sh(`echo '${disk} rbps=max' > ${groupDir}/io.max`);
    await sh('rm big');
  });

  it('jail: a user id of its own, no capabilities, namespaces of its own, a filter on each thread', async () => {
    const vmm = await world.vmmOf(main.id);
    expect(vmm.shared).toEqual([]);
    expect(vmm.threads.length).toBeGreaterThan(1);
    for (const thread of vmm.threads) expectJailed(thread);
  });

  /** The page that the guest gets from a web server, or the status or error. */
  const get = async (host: string, id = main.id): Promise<string> => {
    // Only the metadata service gives no answer at all.
    const seconds = host === METADATA ? 10 : 120;
    const code = `
import urllib.error, urllib.request
try: print(urllib.request.urlopen('http://${host}/', timeout=${seconds}).read().decode().strip())
except urllib.error.HTTPError as error: print(error.code)
except urllib.error.URLError as error: print(type(error.reason).__name__)
`;
    return (await python(await guest(id), code)).stdout.trim();
  };

  it('network: an allowed name is reached; other names, addresses and the metadata service are not', async () => {
    expect(await get(ALLOWED.name)).toBe(`${ALLOWED.name} at ${ALLOWED.address}`);
    expect(await get(FORBIDDEN.name)).toBe('gaierror');
    expect(await get(FORBIDDEN.address)).toBe('403');
    // The nested host gets there by the same way.
    expect(await world.sh(`curl -s --max-time 60 http://${METADATA}/`)).toContain(METADATA);
    expect(await get(METADATA)).toBe('TimeoutError');
  });

  moreCase('network: clones of a template have a card and address each, and reach what is allowed', async () => {
    const { boot: _, ...size } = { ...SMALL, warm: ['json'] };
    // Builds the template, and leaves no pool.
    await control().setPool({ min: 0, max: 0 }, { ...size, card: true });
    const clones = [];
    for (const network of [ONLY_ALLOWED, { mode: 'none' }] as const)
      clones.push(await create({ ...size, boot: false, network }));
    const [one, two] = clones as [SandboxInfo, SandboxInfo];
    expect([one.origin, two.origin]).toEqual(['clone', 'clone']);
    expect(one.network?.address).not.toBe(two.network?.address);
    expect(await get(ALLOWED.name, one.id)).toBe(`${ALLOWED.name} at ${ALLOWED.address}`);
    expect(await get(FORBIDDEN.name, one.id)).toBe('gaierror');
    await control().update(two.id, { network: ONLY_ALLOWED });
    expect(await get(ALLOWED.name, two.id)).toBe(`${ALLOWED.name} at ${ALLOWED.address}`);
    for (const { id } of clones) await control().remove(id);
  });

  it('inference: an answer of the model server arrives, which sees no credentials of the guest', async () => {
    const seen = world.upstream.next();
    const outcome = await python(await guest(), CHAT);
    expect(outcome).toMatchObject({ stdout: '200 hello\n', stderr: '' });
    expect((await seen).headers).not.toHaveProperty('authorization');
  });

  moreCase('inference: LangChain gets an answer', async () => {
    const { id } = await create({ memoryMib: 512 });
    const code = "from langchain_openai import ChatOpenAI; print(ChatOpenAI(model='m1').invoke('hi').content)";
    const outcome = await python(await guest(id), code);
    expect(outcome).toMatchObject({ stdout: 'hello\n', exitCode: 0 });
    await control().remove(id);
  });

  moreCase('load: the kernel measures packets and counts system calls of the VMM', async () => {
    const { sandboxes } = await control().loads();
    const load = sandboxes.find(({ id }) => id === main.id);
    expect(load?.packets?.peer.count).toBeGreaterThan(0);
    expect(load?.memoryBytes).toBeGreaterThan(32 * MIB);
  });

  moreCase('memory: a sandbox with a maximum grows and shrinks while it runs', async () => {
    const { id } = await create({ memoryMaxMib: 384 });
    const total = async (): Promise<number> => (await (await guest(id)).stats()).memoryTotalBytes;
    expect(await total()).toBeLessThan(MEMORY_MIB * MIB);
    expect(await control().update(id, { memoryMib: 384 })).toMatchObject({ memoryMib: 384 });
    expect(await total()).toBeGreaterThan(300 * MIB);
    await control().update(id, { memoryMib: MEMORY_MIB });
    expect(await total()).toBeLessThan(MEMORY_MIB * MIB);
    await control().remove(id);
  });

  moreCase('disk limits: a guest writes no faster than they allow', async () => {
    const bytesPerSecond = MIB / 2;
    // Firecracker's own assumption.
    const requestKib = DISK_REQUEST_BYTES_MAX / KIB;
    expect(await sh('cat /sys/block/vd?/queue/max_sectors_kb | sort -u')).toBe(`${requestKib}`);
    await control().update(main.id, { diskLimits: { bytesPerSecond } });
    const began = performance.now();
    expect(await sh(`dd if=/dev/zero of=big bs=64k count=${(4 * MIB) / 65_536} conv=fsync && rm big`)).toContain(
      'copied',
    );
    // A quarter of the time that the rate alone would take, since a bucket begins full.
    expect(performance.now() - began).toBeGreaterThan(((4 * MIB) / bytesPerSecond / 4) * 1_000);
    await control().update(main.id, { diskLimits: {} });
  });

  it.each(cases === 'all' ? (['memory', 'disk'] as const) : (['disk'] as const))(
    'pause in %s and resume: the program continues, with files, environment and clock',
    async (to) => {
      const { id } = main;
      await (await guest()).files.write('kept', to);
      const begun = await startCounter(await guest());
      expect(await control().pause(id, to)).toMatchObject({ status: 'paused', pausedTo: to });
      await sleep(PAUSED_MS);
      expect(await control().resume(id)).toMatchObject({ id, status: 'running' });
      await expectContinued(await guest(), begun);
      expect(await sh('cat kept')).toBe(to);
      await stopCounter(await guest());
    },
  );

  moreCase('snapshot: a sandbox created from it continues apart from the first, which keeps running', async () => {
    const begun = await startCounter(await guest());
    const snapshot = await control().snapshot(main.id, { name: 'nested' });
    expect(snapshot).toMatchObject({ sandbox: main.id, current: true });
    await expectContinued(await guest(), begun);
    const network = { mode: 'none' } as const;
    const copy = await control().create({ snapshot: 'nested', network });
    expect(copy).toMatchObject({ origin: 'snapshot', snapshot: snapshot.id });
    await expectContinued(await guest(copy.id), begun);
    expect(await sh('echo $NEUROVISOR_SANDBOX_ID', 'user', copy.id)).toBe(copy.id);
    await (await guest(copy.id)).files.write('kept', 'the copy');
    expect(await sh('cat kept')).not.toBe('the copy');
    await control().remove(copy.id);
    await stopCounter(await guest());
  });

  it(`fork: each of ${FORKS[cases]} copies has its own identity and continues what ran`, async () => {
    const count = FORKS[cases];
    const begun = await startCounter(await guest());
    const forks = await control().fork(main.id, { count });
    const ids = forks.map((fork) => (fork.ok ? fork.sandbox.id : fork.message));
    expect(ids.length).toBe(count);
    // Ends the checked program: all share one emulated processor.
    await stopCounter(await guest());
    const identities = [await identityOf(main.id)];
    const isFork = { status: 'running', origin: 'fork', parent: main.id };
    for (const id of ids) expect(await control().get(id)).toMatchObject(isFork);
    for (const id of ids) {
      await expectContinued(await guest(id), begun);
      identities.push(await identityOf(id));
      await control().remove(id);
    }
    expect(identities.map(([id]) => id)).toEqual([main.id, ...ids]);
    for (const each of IDENTITY) expect(new Set(identities.map((lines) => lines[each])).size).toBe(1 + count);
  });

  moreCase(
    'kill -9 of the daemon: its VMMs end; systemd starts it again, and it says so, and resumes what was paused to disk',
    async () => {
      const lost = await create();
      await (await guest()).files.write('kept', 'beyond the daemon');
      await control().pause(main.id, 'disk');
      const { pid } = await world.vmmOf(lost.id);
      await daemon.crash();
      expect(await world.sh(`ls -d /proc/${pid} 2> /dev/null || true`)).toBe('');
      expect((await control().get(lost.id)).end).toMatchObject({ cause: 'host-lost' });
      expect(await control().resume(main.id)).toMatchObject({ status: 'running' });
      expect(await sh('cat kept')).toBe('beyond the daemon');
    },
  );

  it('remove: the VMM, its control group and its network card are gone', async () => {
    const { pid } = await world.vmmOf(main.id);
    await control().remove(main.id);
    const left = `ls -d /proc/${pid} /data/home/run/${main.id} 2> /dev/null
      find /sys/fs/cgroup -name '*${main.id}*'; nft list ruleset | grep ${main.id}; true`;
    expect((await world.sh(left)).trim()).toBe('');
  });
}

function expectJailed(thread: VmmState['threads'][number]): void {
  const [real, effective, saved] = thread['Uid'] ?? [];
  expect(Number(real)).toBeGreaterThan(0);
  expect([effective, saved]).toEqual([real, real]);
  expect(thread).toMatchObject({ NoNewPrivs: ['1'], Seccomp: ['2'] });
  expect(Number(thread['Seccomp_filters']?.[0])).toBeGreaterThan(0);
  for (const name of ['CapEff', 'CapPrm']) expect(thread[name]).toEqual(['0000000000000000']);
}

async function expectContinued(guest: Guest, begun: Awaited<ReturnType<typeof startCounter>>): Promise<void> {
  const seen = await readCount(guest);
  const later = await countBeyond(guest, seen.n);
  expect(later).toEqual({ ...begun, n: later.n });
  const before = Date.now();
  const { stdout } = await python(guest, 'import time; print(time.time() * 1000)');
  expect(Number(stdout)).toBeGreaterThan(before - CLOCK_MS_MAX);
  expect(Number(stdout)).toBeLessThan(Date.now() + CLOCK_MS_MAX);
}

const stopCounter = async (guest: Guest): Promise<void> => {
  const { pid } = await readCount(guest);
  // `kill` is the shell's: the image has no such program. The next counter must not be taken for this one.
  await exec(guest, ['sh', '-c', `kill ${pid} && rm count`]);
};
