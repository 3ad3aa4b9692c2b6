/** Descriptors that a VMM keeps for the next process: taken by pidfd, and compared before use. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { openSync, writeFileSync } from 'node:fs';
import { expect, it, onTestFinished } from 'vitest';
import type { KeptVm } from '../../src/machine/vmm/kept.ts';
import { HeldEnds, takeFile, takeFrom, takeMemory } from '../../src/machine/vmm/qemu/held.ts';
import { closeFd, createMemFd, fileIdentity } from '../../src/sys/fd.ts';
import { tryLockExclusive } from '../../src/sys/file.ts';
import { startTicksOf } from '../../src/sys/process-start.ts';
import { temporaryDir } from '../support/store.ts';

/** A process that holds what a QEMU would, and echoes lines at its end of the control connection. */
function holder(...files: readonly number[]): { kept: KeptVm; memory: number; end(): Promise<void> } {
  const ends = new HeldEnds();
  const memory = createMemFd('ram', 4096);
  const stdio: ('ignore' | 'pipe' | number)[] = ['ignore', 'ignore', 'ignore', 'ignore', 'ignore', memory];
  ends.addTo(stdio);
  stdio.push(...files);
  const child = spawn('bash', ['-c', 'while read -r line <&3; do echo "got $line" >&3; done; sleep 60'], { stdio });
  const sockets = ends.sockets();
  const vmm = { pid: child.pid ?? 0, startTicks: startTicksOf(child.pid ?? 0) ?? '' };
  const kept = { vmm, held: ends.files(memory), groups: [], machine: 'm', configuration: null };
  // As a killed owner leaves them.
  for (const socket of Object.values(sockets)) socket.destroy();
  const end = async (): Promise<void> => {
    const closed = once(child, 'close');
    child.kill('SIGKILL');
    await closed;
  };
  onTestFinished(() => void child.kill('SIGKILL'));
  onTestFinished(() => closeFd(memory));
  return { kept, memory, end };
}

it('takeFrom: the connections work again, as often as their owner is killed', async () => {
  const { kept } = holder();
  for (const word of ['one', 'two']) {
    const { sockets, memoryFd, pidFd } = takeFrom(kept);
    sockets.qmp.write(`${word}\n`);
    const [answer] = await once(sockets.qmp, 'data');
    expect(String(answer)).toBe(`got ${word}\n`);
    for (const socket of Object.values(sockets)) socket.destroy();
    closeFd(memoryFd);
    closeFd(pidFd);
  }
});

it('takeMemory: is the file that the VMM has', () => {
  const { kept, memory } = holder();
  const taken = takeMemory(kept);
  expect(fileIdentity(taken)).toEqual(fileIdentity(memory));
  closeFd(taken);
});

it('takeFile: is the descriptor of the VMM, with its lock', async () => {
  const path = `${await temporaryDir()}-volume`;
  writeFileSync(path, '');
  const [own, other] = [openSync(path, 'r+'), openSync(path, 'r+')];
  expect(tryLockExclusive(own)).toBe(true);
  const { kept, end } = holder(own);
  const file = fileIdentity(own);
  closeFd(own);
  const taken = takeFile(kept, file);
  expect([tryLockExclusive(taken), tryLockExclusive(other)]).toEqual([true, false]);
  closeFd(taken);
  await end();
  expect(tryLockExclusive(other)).toBe(true);
  closeFd(other);
});

it('takeFile: refuses a VMM that has not opened the file', () => {
  const { kept, memory } = holder();
  const { dev } = fileIdentity(memory);
  expect(() => takeFile(kept, { dev, ino: 1n })).toThrow(expect.objectContaining({ code: 'vm_gone' }));
});

it.each([6, 7, 8, 5])('takeFrom: refuses a VMM that has put another file at descriptor %i', (place) => {
  const { kept } = holder();
  const held = kept.held.map((one) => (one.fd === place ? { ...one, ino: '1' } : one));
  expect(() => takeFrom({ ...kept, held })).toThrow(
    expect.objectContaining({
      code: 'vm_gone',
      cause: expect.objectContaining({ message: expect.stringContaining(`descriptor ${place} `) }),
    }),
  );
});

it('takeFrom: refuses a process that has ended, and another one with its pid', async () => {
  const { kept, end } = holder();
  const reused = { ...kept, vmm: { ...kept.vmm, startTicks: '1' } };
  expect(() => takeFrom(reused)).toThrow(expect.objectContaining({ code: 'vm_gone' }));
  await end();
  expect(() => takeFrom(kept)).toThrow(expect.objectContaining({ code: 'vm_gone' }));
});
