/** Our filter file in a real Firecracker, with a guest of three bytes. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { firecrackerFilter } from '../../src/machine/jail/seccomp/firecracker-filter.ts';
import { type Profile, parseProfile } from '../../src/machine/jail/seccomp/profile.ts';
import { requiresFirecracker } from '../support/firecracker.ts';

const POLICY = join(import.meta.dirname, '../../policy/firecracker-x86_64.json');
/** Exit status of Firecracker's SIGSYS handler. */
const EXIT_SECCOMP = 148;
const WAIT_MS_MAX = 10_000;
const ENTRY = 0x10_0000;

const policy = (): Profile => parseProfile(readFileSync(POLICY, 'utf8'));

requiresFirecracker().describe('a filter file in Firecracker', (files) => {
  const { firecracker } = files;
  let dir: string;
  let child: ChildProcess;
  let stderr = '';
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'nv-fc-filter-'));
    stderr = '';
  });
  afterEach(async () => {
    child.kill('SIGKILL');
    await exited();
    rmSync(dir, { recursive: true });
  });

  function start(filter: Uint8Array): void {
    const file = join(dir, 'filter');
    writeFileSync(file, filter);
    const words = ['--api-sock', join(dir, 'api'), '--seccomp-filter', file];
    child = spawn(firecracker, words, { stdio: ['ignore', 'pipe', 'pipe'] });
    child.stdout?.resume();
    child.stderr?.on('data', (bytes: Buffer) => {
      stderr += bytes.toString();
    });
  }

  const exited = async (): Promise<number | null> => {
    if (child.exitCode === null && child.signalCode === null)
      await new Promise((resolve) => child.once('exit', resolve));
    return child.exitCode;
  };

  const api = (method: string, path: string, body?: object): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      const call = request({ socketPath: join(dir, 'api'), method, path }, (answer) => {
        answer.resume();
        answer.once('end', () => resolve(answer.statusCode));
      });
      call.once('error', reject);
      call.end(body === undefined ? undefined : JSON.stringify(body));
    });

  async function boot(filter: Uint8Array): Promise<void> {
    start(filter);
    const kernel = join(dir, 'kernel');
    writeFileSync(kernel, haltingGuest());
    await expect.poll(() => api('GET', '/'), { timeout: WAIT_MS_MAX, interval: 10 }).toBe(200);
    const machine = { vcpu_count: 1, mem_size_mib: 8 };
    expect(await api('PUT', '/machine-config', machine)).toBe(204);
    expect(await api('PUT', '/boot-source', { kernel_image_path: kernel })).toBe(204);
    expect(await api('PUT', '/actions', { action_type: 'InstanceStart' })).toBe(204);
  }

  const snapshot = async (): Promise<number | undefined> => {
    expect(await api('PATCH', '/vm', { state: 'Paused' })).toBe(204);
    const files = { snapshot_path: join(dir, 'state'), mem_file_path: join(dir, 'memory') };
    return await api('PUT', '/snapshot/create', files);
  };

  it('is on every thread of a running VM, which can still be paused and saved', async () => {
    await boot(firecrackerFilter(policy(), 'x86_64'));
    const threads = readdirSync(`/proc/${child.pid}/task`).map((id) => {
      const path = `/proc/${child.pid}/task/${id}`;
      const status = readFileSync(`${path}/status`, 'utf8');
      const field = (name: string): string | undefined => new RegExp(`^${name}:\\s+(\\d+)$`, 'm').exec(status)?.[1];
      return ['Seccomp', 'Seccomp_filters', 'NoNewPrivs'].map(field).join(' ');
    });
    expect(threads.length).toBeGreaterThanOrEqual(3);
    expect([...new Set(threads)]).toEqual(['2 1 1']);
    expect(await snapshot()).toBe(204);
    expect(await api('PATCH', '/vm', { state: 'Resumed' })).toBe(204);
  });

  it('ends a Firecracker that makes a call outside the filter', async () => {
    const whole = policy();
    const vmm = whole.get('vmm');
    if (vmm === undefined) throw new Error('no thread vmm');
    const rules = vmm.rules.filter(({ syscall }) => syscall !== 'open');
    const less = new Map([...whole, ['vmm', { ...vmm, rules }]]);
    await boot(firecrackerFilter(less, 'x86_64'));
    await expect(snapshot()).rejects.toThrow();
    expect(await exited()).toBe(EXIT_SECCOMP);
  });

  it('is refused at the start if truncated, longer or empty', async () => {
    const file = firecrackerFilter(policy(), 'x86_64');
    const longer = Uint8Array.of(...file, 0);
    for (const bytes of [file.subarray(0, -8), longer, new Uint8Array()]) {
      start(bytes);
      expect(await exited()).toBe(1);
      expect(stderr).toMatch(/filter/i);
    }
  });
});

/** An ELF file with one segment that the processor never leaves: hlt, and back to it. */
function haltingGuest(): Uint8Array {
  const code = Uint8Array.of(0xf4, 0xeb, 0xfd);
  const [headerBytes, segmentBytes] = [64, 56];
  const at = headerBytes + segmentBytes;
  const view = new DataView(new ArrayBuffer(at + code.length));
  // e_ident, e_type EXEC, e_machine x86-64, e_version, e_entry, e_phoff, e_ehsize, e_phentsize, e_phnum
  view.setUint32(0, 0x7f45_4c46);
  view.setUint32(4, 0x0201_0100);
  view.setUint16(16, 2, true);
  view.setUint16(18, 62, true);
  view.setUint32(20, 1, true);
  view.setBigUint64(24, BigInt(ENTRY), true);
  view.setBigUint64(32, BigInt(headerBytes), true);
  view.setUint16(52, headerBytes, true);
  view.setUint16(54, segmentBytes, true);
  view.setUint16(56, 1, true);
  // p_type LOAD, p_flags RX, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align
  view.setUint32(headerBytes, 1, true);
  view.setUint32(headerBytes + 4, 5, true);
  for (const [index, value] of [at, ENTRY, ENTRY, code.length, code.length, 1].entries())
    view.setBigUint64(headerBytes + 8 + 8 * index, BigInt(value), true);
  const file = new Uint8Array(view.buffer);
  file.set(code, at);
  return file;
}
